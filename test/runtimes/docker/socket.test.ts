import t from "tap";
import { socketOf } from "../../../src/compose-docker.ts";

t.test("an engine elsewhere is refused, and not another taken in its place", async (t) => {
	t.equal(socketOf(undefined), undefined);
	t.equal(socketOf(""), undefined);
	t.equal(socketOf("unix:///run/user/1000/docker.sock"), "/run/user/1000/docker.sock");
	for (const elsewhere of [
		"tcp://10.0.0.1:2375",
		"ssh://me@host",
		"npipe:////./pipe/docker",
		"10.0.0.1:2375",
		"unix://",
	])
		t.throws(() => socketOf(elsewhere), { code: "invalid_argument", field: "docker", hint: /--docker PATH/ });
});
