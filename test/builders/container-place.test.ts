import { mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { idsIn, inContainer } from "../../src/builders/sandbox/container/place.ts";

const ID = "a1".repeat(32);

t.test("the container that a process is in is told by its mounts and its control groups", async (t) => {
	const mount = `739 719 254:1 /var/lib/docker/containers/${ID}/hostname /etc/hostname rw,relatime - ext4 /dev/vda rw`;
	for (const text of [mount, `12:pids:/docker/${ID}`, `0::/system.slice/docker-${ID}.scope`])
		t.same([...idsIn(`x\n${text}\ny`)], [ID], text);
	t.same([...idsIn("0::/\n11:memory:/user.slice/a1a1\n1 2 0:1 / / rw - overlay overlay rw")], []);
});

t.test("paths of volumes are those of the machine; what the image has is there already", async (t) => {
	const base = await mkdtemp(join(tmpdir(), "place-"));
	t.teardown(() => rm(base, { recursive: true, force: true }));
	for (const folder of ["data/tree/one", "data/inner/x", "database", "app", "memory"])
		await mkdir(join(base, folder), { recursive: true });
	await writeFile(join(base, "app/go"), "");
	await symlink(join(base, "data/inner"), join(base, "data/link"));
	const at = (name: string) => join(base, name);
	const place = inContainer({
		...{ image: "sha256:1", variables: ["PATH"], volumes: [at("data")] },
		mounts: [
			{ target: at("data"), source: "/volumes/data/_data" },
			{ target: at("data/inner"), source: "/srv/inner/" },
			{ target: at("memory"), source: null },
		],
	});
	t.match(place, { covered: [at("data")], image: "sha256:1", binds: [] });
	const source = async (name: string, writable = false) =>
		(await place.bind(at(name), at(name), writable))?.source ?? "in the image";
	t.equal(await source("data/tree/one", true), "/volumes/data/_data/tree/one");
	t.equal(await source("data"), "/volumes/data/_data");
	t.equal(await source("data/inner/x"), "/srv/inner/x", "the deeper mount");
	t.equal(await source("data/link/x"), "/srv/inner/x", "links are followed before it is told where it is");
	t.equal(await source("app/go"), "in the image");
	t.equal(await source("database"), "in the image", "not by the beginning of its name");
	await t.rejects(source("app", true), { code: "invalid_argument", field: "dataDir", message: /container alone/ });
	await t.rejects(source("memory"), { code: "invalid_argument", message: /in memory/ });
});
