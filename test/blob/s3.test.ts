import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { mkdtemp, readFile, rm, truncate, unlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text as textOf } from "node:stream/consumers";
import { fileURLToPath } from "node:url";
import { ListMultipartUploadsCommand } from "@aws-sdk/client-s3";
import t, { type Test } from "tap";
import { Bucket } from "../../src/blob/s3/bucket.ts";
import { Entries } from "../../src/blob/s3/entries.ts";
import { type S3Options, settled } from "../../src/blob/s3/options.ts";
import { S3BlobStore } from "../../src/blob/s3/store.ts";
import { isAppError } from "../../src/errors.ts";
import { blobSuite, collect, never, pattern, reusedChunks, text } from "../conformance/blob.ts";
import { S3Host } from "../hosts/s3.ts";
import { S3Proxy, type Seen } from "../hosts/s3-proxy.ts";

const MIB = 1024 * 1024;
const skip = await S3Host.missing();

t.test("S3", { skip }, async (t) => {
	const host = await S3Host.start();
	t.teardown(() => host.close());
	/** Options of a store in a corner of its own. */
	const own = (options: Partial<S3Options> = {}): S3Options => ({
		...{ ...host.options, partSize: 5 * MIB, prefix: randomUUID() },
		...options,
	});
	const open = async (t: Test, options: S3Options): Promise<S3BlobStore> => {
		const store = await S3BlobStore.open(options);
		t.teardown(() => store[Symbol.asyncDispose]());
		return store;
	};
	const files = async ({ prefix }: S3Options, kind = "data") =>
		(await host.files()).filter((file) => file.includes(`/${prefix}/${kind}/`));
	const openUploads = async ({ prefix, bucket }: S3Options) => {
		const client = host.client();
		const { Uploads = [] } = await client.send(
			new ListMultipartUploadsCommand({ Bucket: bucket, Prefix: `${prefix}/` }),
		);
		client.destroy();
		return Uploads.length;
	};
	const proxied = async (t: Test): Promise<{ proxy: S3Proxy; options: S3Options }> => {
		const proxy = await S3Proxy.start(host.port);
		t.teardown(() => proxy.close());
		const options = own({ endpoint: proxy.endpoint, smallRequestTimeout: 2_000, idleTimeout: 4_000 });
		return { proxy, options };
	};
	const runChild = async (mode: "write" | "large", options: S3Options, env: NodeJS.ProcessEnv = {}) => {
		const script = fileURLToPath(new URL("s3-child.ts", import.meta.url));
		const child = spawn(process.execPath, [script, mode], {
			stdio: ["ignore", "pipe", "inherit"],
			env: { ...process.env, ...env, S3_OPTIONS: JSON.stringify(options) },
		});
		const [output, [code, signal]] = await Promise.all([textOf(child.stdout), once(child, "close")]);
		return { output, code, signal };
	};
	/** Everything counts as old; the endpoint's clock has whole seconds, so that takes one of them. */
	const sweepAll = async (t: Test, options: S3Options, expected: number) => {
		const store = await open(t, { ...options, leftoverAge: 0 });
		let removed = await store.swept;
		for (const end = Date.now() + 10_000; Date.now() < end && removed < expected; )
			removed += await store.sweep(never());
		return removed;
	};
	const nothingLeft = async (t: Test, options: S3Options, message: string) => {
		t.same(await files(options), [], `${message}: no data object`);
		t.same(await files(options, "index"), [], `${message}: no entry`);
		t.equal(await openUploads(options), 0, `${message}: no open upload`);
	};

	await t.test("the suite", async (t) => {
		blobSuite(
			t,
			"s3",
			async () => {
				const options = own();
				const cut = async (size: number) => {
					const [file, ...others] = await files(options);
					if (file === undefined || others.length > 0) throw new Error("it is not the only one");
					await truncate(file, size);
				};
				return { store: await S3BlobStore.open(options), cut };
			},
			// Three buffers of 5 MiB, and what Node receives from sockets.
			{ maxGrowth: 96 * MIB, inFlight: 64 * MIB },
		);
	});

	await t.test("twenty writers of one key on two servers: one wins, the others leave nothing", async (t) => {
		const options = own();
		const stores = [await open(t, options), await open(t, options)] as const;
		const all = Array.from({ length: 20 }, async (_, writer) => {
			await stores[writer % 2 === 0 ? 0 : 1].put("race", reusedChunks(Buffer.alloc(100_000, writer), 9_999), never());
			return writer;
		});
		const results = await Promise.allSettled(all);
		const winners = results.filter((result) => result.status === "fulfilled").map((result) => result.value);
		t.equal(winners.length, 1);
		for (const result of results) if (result.status === "rejected") t.match(result.reason, { code: "conflict" });
		for (const store of stores)
			t.ok(Buffer.alloc(100_000, winners[0]).equals(await collect(await store.get("race", never()))));
		t.equal((await files(options)).length, 1);
		await stores[0].delete("race", never());
		await t.rejects(stores[1].get("race", never()), { code: "not_found" });
		await nothingLeft(t, options, "after the delete");
	});

	await t.test("keys that look alike do not meet", async (t) => {
		const store = await open(t, own());
		const keys = ["a-b/c", "a/b-c", "A/b-c", "a/b-C", "a", "a.json", "data/a", "index/a", `${"k".repeat(200)}../x`];
		for (const key of keys) await store.put(key, text(key), never());
		for (const key of keys) t.equal(String(await collect(await store.get(key, never()))), key);
		const listed: string[] = [];
		for await (const key of store.list("", never())) listed.push(key);
		t.same(listed, [...keys].sort());
	});

	const POINTS = {
		"s3.part_sent:1": { output: "stored kept\n", victim: "absent" },
		"s3.before_entry:2": { output: "stored kept\n", victim: "absent" },
		"s3.after_entry:2": { output: "stored kept\n", victim: "present" },
		"s3.entry_removed:1": { output: "stored kept\nstored victim\n", victim: "absent" },
	} as const;
	for (const [point, { output, victim }] of Object.entries(POINTS)) {
		await t.test(`killed at ${point}: what was acknowledged is there, the sweep removes the rest`, async (t) => {
			const folder = await mkdtemp(join(tmpdir(), "s3-kill-"));
			t.teardown(() => rm(folder, { recursive: true }));
			const options = own();
			const log = join(folder, "hits");
			const ended = await runChild("write", options, {
				RUNTIME_FAILPOINTS: `${point}=kill`,
				RUNTIME_FAILPOINT_LOG: log,
			});
			t.equal(ended.signal, "SIGKILL");
			t.match(await readFile(log, "utf8"), point.replace(":", " "), "the point was reached");
			t.equal(ended.output, output);

			const store = await open(t, options);
			t.equal(await store.swept, 0, "nothing is old enough");
			t.equal(String(await collect(await store.get("kept", never()))), "acknowledged");
			if (victim === "absent") await t.rejects(store.get("victim", never()), { code: "not_found" });
			else t.ok(pattern(11 * MIB).equals(await collect(await store.get("victim", never()))));
			const before = (await files(options)).length + (await openUploads(options));
			t.equal(before, 2, "there is something to sweep, or the blob");

			t.equal(await sweepAll(t, options, victim === "absent" ? 1 : 0), victim === "absent" ? 1 : 0);
			t.equal((await files(options)).length, victim === "absent" ? 1 : 2);
			t.equal(await openUploads(options), 0);
			t.equal(String(await collect(await store.get("kept", never()))), "acknowledged");
			if (victim === "absent") await store.put("victim", text("again"), never());
		});
	}

	await t.test("the sweep leaves alone what is being put, and takes what a key has left", async (t) => {
		const options = own();
		const store = await open(t, options);
		const opened = Promise.withResolvers<void>();
		const gate = Promise.withResolvers<void>();
		const put = store.put(
			"slow",
			(async function* () {
				yield* reusedChunks(pattern(11 * MIB), 65_536);
				opened.resolve();
				await gate.promise;
			})(),
			never(),
		);
		await opened.promise;
		t.equal(await store.sweep(never()), 0);
		gate.resolve();
		await put;
		await store.put("b", text("b"), never());
		const bucket = new Bucket(settled(options));
		for (const name of ["slow!/old", "a!/old", "z!/old", "z!/older"]) {
			await bucket.put(`${options.prefix}/data/${name}`, "x", never());
		}
		bucket.close();
		t.equal(await sweepAll(t, options, 4), 4);
		t.equal((await files(options)).length, 2);
		t.equal((await collect(await store.get("slow", never()))).length, 11 * MIB);
	});

	await t.test("the server stops in the middle of a put and of a get, and comes back", async (t) => {
		const options = own({ attempts: 8 });
		const store = await open(t, options);
		const bytes = pattern(16 * MIB);
		const body = async function* () {
			for (let offset = 0; offset < bytes.length; offset += MIB) {
				if (offset === 8 * MIB) {
					await host.down();
					setTimeout(() => host.up().catch(t.threw), 200);
				}
				yield bytes.subarray(offset, offset + MIB);
			}
		};
		await store.put("survivor", body(), never());
		let count = 0;
		const parts: Buffer[] = [];
		for await (const chunk of await store.get("survivor", never())) {
			parts.push(Buffer.from(chunk));
			if (count++ === 3) {
				await host.down();
				setTimeout(() => host.up().catch(t.threw), 200);
			}
		}
		t.ok(bytes.equals(Buffer.concat(parts)));
	});

	await t.test(
		"while the server is away everything is unavailable, and nothing is half there afterwards",
		async (t) => {
			const options = own({ attempts: 2, resumes: 1 });
			const store = await open(t, options);
			await store.put("there", text("there"), never());
			const body = async function* () {
				yield* reusedChunks(pattern(6 * MIB), 65_536);
				await host.down();
				yield* reusedChunks(pattern(6 * MIB), 65_536);
			};
			await t.rejects(store.put("late", body(), never()), { code: "unavailable" });
			await t.rejects(store.get("there", never()), { code: "unavailable" });
			await t.rejects(store.stat("there", never()), { code: "unavailable" });
			await t.rejects(store.delete("there", never()), { code: "unavailable" });
			await host.up();
			t.equal(String(await collect(await store.get("there", never()))), "there");
			await t.rejects(store.get("late", never()), { code: "not_found" });
			await store.put("late", text("late"), never());
		},
	);

	await t.test("a wrong setting is named at the opening, and no secret is told", async (t) => {
		const { accessKeyId, secretAccessKey } = host.options.credentials;
		const wrong: [string, Partial<S3Options>, string][] = [
			["s3Bucket", { bucket: "not-there" }, "invalid_argument"],
			["s3Region", { region: "fr-par" }, "invalid_argument"],
			["s3Credentials", { credentials: { accessKeyId, secretAccessKey: "not-the-secret" } }, "invalid_argument"],
			["s3Credentials", { credentials: { accessKeyId: "nobody", secretAccessKey } }, "invalid_argument"],
			["s3Endpoint", { endpoint: "http://127.0.0.1:1" }, "unavailable"],
			["s3Endpoint", { endpoint: "http://nowhere.invalid" }, "unavailable"],
			["s3Endpoint", { endpoint: `https://127.0.0.1:${host.port}` }, "unavailable"],
			["s3Endpoint", { endpoint: "http://user:word@127.0.0.1" }, "invalid_argument"],
			["s3Prefix", { prefix: "../other" }, "invalid_argument"],
		];
		for (const [field, options, code] of wrong) {
			const error = await S3BlobStore.open(own({ attempts: 1, ...options })).catch((error: unknown) => error);
			t.match(error, { code, field, hint: field === "s3Endpoint" && code === "invalid_argument" ? undefined : String });
			if (!isAppError(error)) continue;
			const told = [error.message, error.hint, String(error.cause), JSON.stringify(error), JSON.stringify(error.cause)];
			for (const secret of [accessKeyId, secretAccessKey, "not-the-secret", "nobody", "word@"])
				t.notOk(told.join().includes(secret), `${error.message} tells nothing`);
		}
	});

	await t.test("an answer that is lost: put tells the truth", async (t) => {
		const { proxy, options } = await proxied(t);
		const store = await open(t, options);
		const entry = ({ method, conditional }: Seen) => method === "PUT" && conditional;
		for (const fate of ["lost", "unanswered", "busy"] as const) {
			let met = 0;
			proxy.fate = (seen) => (entry(seen) && met++ === 0 ? fate : "pass");
			t.match(await store.put(`once-${fate}`, text(fate), never()), { size: fate.length });
			t.ok(met > 0);
			t.equal(String(await collect(await store.get(`once-${fate}`, never()))), fate);
		}
		// The endpoint has done it, and says so to nobody.
		proxy.fate = (seen) => (entry(seen) ? "lost" : "pass");
		await store.put("told-by-the-index", text("x"), never());
		let entries = 0;
		proxy.fate = (seen) => {
			if (entry(seen)) entries++;
			return entries > 0 ? "lost" : "pass";
		};
		await t.rejects(store.put("doubtful", text("kept"), never()), { code: "unavailable" });
		proxy.fate = () => "pass";
		t.equal(String(await collect(await store.get("doubtful", never()))), "kept", "its bytes were not thrown away");
		// The upload's last answer.
		proxy.fate = ({ method, path }) => (method === "POST" && path.includes("uploadId=") ? "lost" : "pass");
		await store.put("completed", reusedChunks(pattern(11 * MIB), 65_536), never());
		proxy.fate = () => "pass";
		t.ok(pattern(11 * MIB).equals(await collect(await store.get("completed", never()))));
		t.equal(await openUploads(options), 0);
	});

	await t.test("a download that breaks off is taken up again, and never comes short", async (t) => {
		const { proxy, options } = await proxied(t);
		const store = await open(t, { ...options, resumes: 2 });
		const bytes = pattern(3 * MIB);
		await store.put("read", reusedChunks(bytes, 65_536), never());
		const data = ({ method, path }: Seen) => method === "GET" && path.includes("/data/");
		let breaks = 0;
		proxy.fate = (seen) => (data(seen) && breaks++ < 3 ? "truncated" : "pass");
		t.ok(bytes.equals(await collect(await store.get("read", never()))));
		t.equal(breaks, 4);
		const range = { start: 1_000, end: 2_000_000 };
		breaks = 0;
		t.ok(bytes.subarray(1_000, 2_000_001).equals(await collect(await store.get("read", { ...never(), range }))));
		const stream = await store.get("read", never());
		proxy.fate = () => "busy";
		breaks = 0;
		await store.stat("read", never()).catch((error: unknown) => t.match(error, { code: "unavailable" }));
		proxy.fate = (seen) => (data(seen) ? "truncated" : "pass");
		await collect(stream);
		proxy.fate = (seen) => (data(seen) ? "lost" : "pass");
		await t.rejects(store.get("read", never()), { code: "unavailable" });
	});

	await t.test("a put that is cancelled in any phase leaves nothing, or was stored", async (t) => {
		const { proxy, options } = await proxied(t);
		const store = await open(t, options);
		const phases: Record<string, (seen: Seen) => boolean> = {
			"the look at the key": ({ method, path }) => method === "GET" && path.includes("/index/"),
			"the upload begins": ({ method, path }) => method === "POST" && path.includes("uploads"),
			"a part": ({ method, path }) => method === "PUT" && path.includes("partNumber=2"),
			"the upload ends": ({ method, path }) => method === "POST" && path.includes("uploadId="),
			"the check": ({ method }) => method === "HEAD",
			"the entry": ({ method, conditional }) => method === "PUT" && conditional,
		};
		for (const [phase, isIt] of Object.entries(phases)) {
			const controller = new AbortController();
			let reached = false;
			proxy.fate = (seen) => {
				if (isIt(seen) && !reached) {
					reached = true;
					controller.abort();
				}
				return "pass";
			};
			const put = store.put("cancelled", reusedChunks(pattern(12 * MIB), 65_536), controller);
			const result = await put.catch((error: unknown) => error);
			t.ok(reached, phase);
			proxy.fate = () => "pass";
			if (phase === "the entry") {
				t.match(result, { size: 12 * MIB }, "it was too late");
				await store.delete("cancelled", never());
			} else t.match(result, { code: "cancelled" }, phase);
			await nothingLeft(t, options, phase);
		}
	});

	await t.test("a part that fails for good ends the put, and leaves nothing", async (t) => {
		const { proxy, options } = await proxied(t);
		const store = await open(t, { ...options, attempts: 2 });
		let pulled = 0;
		const body = async function* () {
			for await (const chunk of reusedChunks(pattern(64 * MIB), MIB)) {
				pulled++;
				yield chunk;
			}
		};
		proxy.fate = ({ path }) => (path.includes("partNumber=1") ? "busy" : "pass");
		await t.rejects(store.put("failing", body(), never()), { code: "unavailable" });
		t.ok(pulled < 60, `the body was let go after ${pulled} MiB`);
		proxy.fate = () => "pass";
		await nothingLeft(t, options, "after it");
	});

	await t.test("changed bytes are found by the scrub and quarantined; missing ones at once", async (t) => {
		const options = own({ scrubRate: 1e9 });
		const store = await open(t, options);
		for (const key of ["flipped", "good", "missing"])
			await store.put(key, reusedChunks(pattern(700_000), 65_536), never());
		const fileOf = async (key: string) => {
			const file = (await files(options)).find((name) => name.includes(`/${key}!/`));
			if (file === undefined) throw new Error("no file");
			return file;
		};
		const flipped = pattern(700_000);
		flipped[350_000] = (flipped[350_000] ?? 0) ^ 1;
		await writeFile(await fileOf("flipped"), flipped);
		await unlink(await fileOf("missing"));
		await t.rejects(store.get("missing", never()), { code: "damaged" });
		const found: Record<string, boolean> = {};
		for await (const { key, ok } of store.scrub(never())) found[key] = ok;
		t.same(found, { flipped: false, good: true, missing: false });
		await t.rejects(store.get("flipped", never()), { code: "damaged" });
		await store.delete("flipped", never());
		await store.put("flipped", text("again"), never());
		t.equal(String(await collect(await store.get("flipped", never()))), "again");
	});

	await t.test("an endpoint that does not heed If-None-Match is noticed, and one server is still safe", async (t) => {
		const { proxy, options } = await proxied(t);
		proxy.fate = ({ path, conditional }) => (conditional && path.includes("/probe/") ? { status: 200 } : "pass");
		t.match((await open(t, options)).warning, /If-None-Match/);
		proxy.fate = () => "pass";
		t.equal((await open(t, options)).warning, undefined);
		const bucket = new Bucket(settled(own()));
		t.teardown(() => bucket.close());
		const entries = new Entries(bucket, { create: false, replace: false });
		const entry = { key: "k", size: 0, sha256: "", createdAt: "", etag: "", damaged: false };
		t.same(await entries.insert({ ...entry, object: "one" }), { stored: "yes" });
		t.match(await entries.insert({ ...entry, object: "two" }), { stored: "no", error: { code: "conflict" } });
		t.same(await entries.insert({ ...entry, object: "one" }), { stored: "yes" }, "our own");
		t.match(await entries.find("k", never()), { object: "one" });
	});

	await t.test("1 GiB goes through with bounded memory", async (t) => {
		const options = own();
		const { output, code } = await runChild("large", options);
		t.equal(code, 0);
		const { size, same, put, get } = JSON.parse(output);
		t.equal(size, 1024 * MIB);
		t.ok(same);
		t.comment(`resident memory grew by ${put.toFixed(1)} MiB in the put, by ${get.toFixed(1)} MiB in the get`);
		t.ok(put < 100, `put: ${put} MiB`);
		t.ok(get < 100, `get: ${get} MiB`);
	});
});
