import { createHash } from "node:crypto";
import { connect } from "node:net";
import t from "tap";
import { archiveOf } from "../fixtures/archive.ts";
import { form, TestApp } from "../harness/app.ts";
import { TestCore, until } from "../harness/core.ts";

const archive = await archiveOf({ "main.fake": "hello" });
const digest = createHash("sha256").update(archive).digest();

t.test("an upload is answered with its key, digest and size; fields may come first", async (t) => {
	const core = await TestCore.open(t);
	const app = await TestApp.open(t, core);
	const sent = form([
		["note", null, "first"],
		["archive", "a.tgz", archive],
	]);
	const header = `sha-256=:${digest.toString("base64")}:`;
	for (const headers of [{}, { "repr-digest": header }, { "repr-digest": `sha-512=:x:, ${header}` }]) {
		const answer = await app.call("POST", "/sources", { ...sent, headers: { ...sent.headers, ...headers } });
		t.match(
			{ status: answer.status, ...answer.json() },
			{ status: 201, digest: `sha256:${digest.toString("hex")}`, size: archive.length },
		);
	}
	t.equal((await core.blobKeys()).length, 3);
	t.same(app.faults, []);
});

t.test("what is no whole, right archive is refused and leaves nothing behind", async (t) => {
	const core = await TestCore.open(t);
	const app = await TestApp.open(t, core);
	const whole = form([["archive", "a.tgz", archive]]);
	const large = Buffer.concat([archive, Buffer.alloc(100_000)]);
	const wrong = `sha-256=:${createHash("sha256").digest("base64")}:`;
	for (const [name, sent, headers, status, field] of [
		["no parts", form([]), {}, 400, "archive"],
		["no file", form([["archive", null, "text"]]), {}, 400, "archive"],
		["another name", form([["file", "a.tgz", archive]]), {}, 400, "archive"],
		["another name, large", form([["file", "a.tgz", large]]), {}, 400, "archive"],
		[
			"a field after it",
			form([
				["archive", "a.tgz", archive],
				["note", null, "late"],
			]),
			{},
			400,
			"archive",
		],
		[
			"two files",
			form([
				["archive", "a.tgz", archive],
				["archive", "b.tgz", archive],
			]),
			{},
			400,
			"archive",
		],
		["no gzip", form([["archive", "a.tgz", "plain text"]]), {}, 400, "archive"],
		["one byte", form([["archive", "a.tgz", Buffer.from([0x1f])]]), {}, 400, "archive"],
		["empty", form([["archive", "a.tgz", ""]]), {}, 400, "archive"],
		["no end", form([["archive", "a.tgz", archive]], false), {}, 400, "archive"],
		["over the limit", form([["archive", "a.tgz", large]]), {}, 413, "archive"],
		["another digest", whole, { "repr-digest": wrong }, 400, undefined],
		["no digest", whole, { "repr-digest": "sha-256=nonsense" }, 400, "Repr-Digest"],
		["no boundary", { ...whole, headers: { "content-type": "multipart/form-data" } }, {}, 400, undefined],
	] as const) {
		const answer = await app.call("POST", "/sources", {
			payload: sent.payload,
			headers: { ...sent.headers, ...headers },
		});
		t.equal(answer.status, status, `${name}: ${answer.body.slice(0, 200)}`);
		if (field !== undefined) t.equal(answer.json().field, field, name);
		t.same(await core.blobKeys(), [], `${name} leaves nothing`);
	}
	t.same(app.faults, []);
});

t.test("a connection that breaks off in the middle leaves nothing, and the server goes on", async (t) => {
	const core = await TestCore.open(t);
	const app = await TestApp.open(t, core);
	const { port } = new URL(await app.app.listen({ host: "127.0.0.1", port: 0 }));
	const put = core.blobStore.put.bind(core.blobStore);
	const puts = { begun: 0, ended: 0 };
	core.blobStore.put = async (...args) => {
		puts.begun++;
		return put(...args).finally(() => puts.ended++);
	};
	const { payload, headers } = form([["archive", "a.tgz", Buffer.concat([archive, Buffer.alloc(30_000)])]]);
	const socket = connect(Number(port), "127.0.0.1");
	socket.write(
		`POST /sources HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${app.token}\r\ncontent-type: ${headers["content-type"]}\r\ncontent-length: ${payload.length}\r\n\r\n`,
	);
	socket.write(payload.subarray(0, 20_000));
	await until(
		() => puts.begun === 1,
		() => "the store is being written to",
	);
	socket.destroy();
	await until(
		() => puts.ended === 1,
		() => "the upload was given up",
	);
	t.same(await core.blobKeys(), []);
	const whole = form([["archive", "a.tgz", archive]]);
	t.equal((await app.call("POST", "/sources", whole)).status, 201);
});
