import t from "tap";
import { helloProgram } from "../fixtures/hello.ts";
import { dataFolder, endOf, TestServer, until } from "../harness/server.ts";

t.test("a data folder that has services is refused under another profile", async (t) => {
	const dataDir = await dataFolder(t);
	const local = await TestServer.start({ dataDir });
	await local.api.create({ name: "hello", source: await local.api.uploadFiles(helloProgram('"one"')) });
	const { url } = await local.api.settled("hello");
	await local.stop();
	const refused = await endOf({ dataDir, args: ["--profile", "dev"] });
	t.match(refused, { code: 1, output: /are of the profile local\n.*--profile local.*hello:latest/ });
	t.equal(await (await fetch(url ?? "")).text(), "one", "they go on");

	const again = await TestServer.start({ dataDir });
	t.match(await again.api.get("hello"), { status: "Running", url });
	await again.api.call("DELETE", "/services/hello/latest");
	await until(async () => (await again.api.find("hello")) === undefined, "it is gone");
	await again.stop();
	const other = await TestServer.start({ dataDir, args: ["--profile", "dev"] });
	t.match((await other.api.call("GET", "/services")).body, { services: [] });
	await other.stop();
});
