import t from "tap";
import { helloProgram } from "../fixtures/hello.ts";
import { dataFolder, endOf, TestServer, until } from "../harness/server.ts";
import { S3Host } from "../hosts/s3.ts";

t.test("a server with its sources and builds in S3", { skip: await S3Host.missing() }, async (t) => {
	const host = await S3Host.start();
	t.teardown(() => host.close());
	const { endpoint, bucket, credentials } = host.options;
	const args = ["--s3-endpoint", endpoint, "--s3-bucket", bucket];
	// The servers that end what is left at the end are started with this process's environment.
	process.env.RUNTIME_S3_ACCESS_KEY_ID = credentials.accessKeyId;
	process.env.RUNTIME_S3_SECRET_ACCESS_KEY = credentials.secretAccessKey;
	const said = async (args: readonly string[], env: Record<string, string> = {}) =>
		endOf({ dataDir: await dataFolder(t), args, env });
	const dataDir = await dataFolder(t, args);
	let server = await TestServer.start({ dataDir, args });
	t.teardown(() => server.stop());
	const source = await server.api.uploadFiles(helloProgram('"one"'));
	await server.api.create({ name: "hello", source });
	const first = await server.api.settled("hello");
	t.match(first, { status: "Running", error: null });
	const says = async () => (await fetch(first.url ?? "")).text();
	t.equal(await says(), "one");

	await t.test("what is stored is there after a kill -9, and is removed with its service", async (t) => {
		await server.kill();
		server = await TestServer.start({ dataDir, args });
		const build = await server.api.call("GET", "/builds/hello/latest");
		t.equal(build.status, 200, "the sweep at the start leaves what has a record");
		t.equal(Number(build.headers.get("content-length")), first.build?.size);
		await server.api.create({ name: "other", source });
		t.match(await server.api.settled("other"), { status: "Running" });
		await server.api.call("DELETE", "/services/other/latest");
		await until(async () => (await server.api.find("other")) === undefined, "it is gone");
	});

	await t.test("while S3 is down: uploads say so, a build that cannot be stored does, services go on", async (t) => {
		const second = await server.api.uploadFiles(helloProgram('"two"'));
		await host.down();
		t.equal(await says(), "one");
		t.match(await server.api.send(new Uint8Array(1000)), { status: 503, body: { code: "unavailable" } });
		await server.api.update("hello", { source: second });
		const failed = await server.api.settled("hello", 300_000);
		t.match(failed, { status: "Running", revision: 1, target: { revision: 2, error: { retryable: true } } });
		t.notMatch(JSON.stringify(failed), new RegExp(credentials.secretAccessKey));
		t.equal(await says(), "one");
		await host.up();
		await server.api.update("hello", { source: second });
		t.match(await server.api.settled("hello"), { status: "Running", revision: 3, target: null });
		t.equal(await says(), "two");
	});

	await t.test("a bucket belongs to one installation's records", async (t) => {
		const other = await said(args);
		t.match(other, { code: 1, output: /holds the blobs of other records.*\n.*--s3-prefix/ });
		t.equal((await server.api.call("GET", "/builds/hello/latest")).status, 200, "nothing of it was removed");
		const dataDir = await dataFolder(t, [...args, "--s3-prefix", "theirs"]);
		const neighbour = await TestServer.start({ dataDir, args: [...args, "--s3-prefix", "theirs"] });
		t.match((await neighbour.api.call("GET", "/services")).body, { services: [] });
		await neighbour.stop();
	});

	await t.test("what is set wrongly is said by its name", async (t) => {
		t.match(await said(["--s3-endpoint", endpoint, "--s3-bucket", "nowhere"]), {
			code: 1,
			output: /no bucket "nowhere".*\n.*--s3-path-style/,
		});
		const wrong = await said(args, { RUNTIME_S3_SECRET_ACCESS_KEY: "wrong" });
		t.match(wrong, { code: 1, output: /access key or its secret/ });
		t.match(await said(["--s3-region", "eu-west-1"]), { code: 2, output: /--s3-region needs --s3-bucket/ });
		t.match(await said(["--s3-bucket", "b", "--s3-endpoint", "http://10.1.2.3"]), { code: 2, output: /insecure-http/ });
	});
});
