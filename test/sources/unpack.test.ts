import { mkdtemp, readdir, readFile, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import fc from "fast-check";
import t, { type Test } from "tap";
import { isAppError } from "../../src/errors.ts";
import { type UnpackLimits, unpack } from "../../src/sources/unpack.ts";
import { archiveOf, inReusedChunks, type RawEntry, tarOf } from "../fixtures/archive.ts";

const signal = new AbortController().signal;

async function folder(): Promise<string> {
	const path = await mkdtemp(join(tmpdir(), "unpack-test-"));
	t.teardown(() => rm(path, { recursive: true, force: true }));
	return path;
}

async function unpackBytes(bytes: Uint8Array, limits: Partial<UnpackLimits> = {}, chunk = 64 * 1024) {
	const into = join(await folder(), "tree");
	return { into, ...(await unpack(inReusedChunks(bytes, chunk), into, limits, { signal })) };
}

async function refused(test: Test, bytes: Uint8Array, words: RegExp, limits: Partial<UnpackLimits> = {}) {
	try {
		await unpackBytes(bytes, limits);
		test.fail(`was unpacked, but should be refused: ${words}`);
	} catch (error) {
		test.ok(isAppError(error, "invalid_argument"), `invalid_argument: ${error}`);
		test.match(error instanceof Error ? error.message : "", words);
	}
}

const file = (name: string, body = "x"): RawEntry => ({ header: { name }, body });
const zipped = async (entries: readonly RawEntry[]) => gzipSync(await tarOf(entries));

t.test("files and folders arrive with their content and their modes", async (t) => {
	const bytes = await zipped([
		{ header: { name: "./", type: "directory" } },
		{ header: { name: "./empty/", type: "directory", mode: 0o700 } },
		{ header: { name: "./a/b/run.sh", mode: 0o4777 }, body: "#!/bin/sh\n" },
		{ header: { name: "a/secret", mode: 0o600, mtime: new Date(0) }, body: "s" },
		{ header: { name: "a/", type: "directory", mode: 0o500 } },
		file("zeros", "\0".repeat(5000)),
	]);
	const { into, files, bytes: size } = await unpackBytes(bytes);
	t.equal(files, 3);
	t.equal(size, 10 + 1 + 5000);
	t.same((await readdir(into)).sort(), ["a", "empty", "zeros"]);
	t.equal((await stat(join(into, "a/b/run.sh"))).mode & 0o7777, 0o755);
	t.equal((await stat(join(into, "a/secret"))).mode & 0o7777, 0o644);
	t.equal((await stat(join(into, "a"))).mode & 0o7777, 0o755);
	t.equal(await readFile(join(into, "a/b/run.sh"), "utf8"), "#!/bin/sh\n");
	t.ok((await stat(join(into, "a/secret"))).mtimeMs > 1e12, "the archive's times are not kept");
});

t.test("long names: pax and GNU", async (t) => {
	const long = `${"d".repeat(200)}/${"e".repeat(200)}/ü.txt`;
	const { into } = await unpackBytes(await zipped([file(long, "pax")]));
	t.equal(await readFile(join(into, long), "utf8"), "pax");
	const { execFileSync } = await import("node:child_process");
	const at = await folder();
	execFileSync("mkdir", ["-p", join(at, "in", "d".repeat(200))]);
	execFileSync("cp", ["/dev/null", join(at, "in", "d".repeat(200), "e".repeat(200))]);
	for (const format of ["gnu", "pax", "ustar", "v7"]) {
		if (format === "ustar" || format === "v7") execFileSync("rm", ["-rf", join(at, "in", "d".repeat(200))]);
		execFileSync("sh", ["-c", "echo hi > in/short"], { cwd: at });
		const made = execFileSync("tar", ["-czf", "-", `--format=${format}`, "-C", join(at, "in"), "."]);
		const result = await unpackBytes(made);
		t.equal(await readFile(join(result.into, "short"), "utf8"), "hi\n", `${format} of the system's tar`);
	}
});

t.test("what is refused, in words that name the entry", async (t) => {
	const cases: [string, RawEntry[], RegExp][] = [
		["absolute", [file("/etc/passwd")], /"\/etc\/passwd" has an absolute name/],
		["drive", [file("C:/x")], /absolute/],
		["traversal", [file("a/../../b")], /"a\/\.\.\/\.\.\/b" leads out/],
		["inner ..", [file("a/../b")], /leads out/],
		["backslash", [file("a\\b")], /backslash/],
		["empty", [file("")], /empty name/],
		["empty part", [file("a//b")], /empty part/],
		["only dot", [file(".")], /without a name/],
		["NUL", [{ header: { name: "x", pax: { path: "a\0b" } }, body: "x" }], /NUL/],
		["not UTF-8", [{ header: { name: "a\uFFFDb" }, body: "x" }], /not UTF-8/],
		["symlink", [{ header: { name: "l", type: "symlink", linkname: "/etc" } }], /"l" is a symbolic link to "\/etc"/],
		["hard link", [file("a"), { header: { name: "l", type: "link", linkname: "a" } }], /"l" is a hard link to "a"/],
		["character device", [{ header: { name: "null", type: "character-device" } }], /character device/],
		["block device", [{ header: { name: "sda", type: "block-device" } }], /block device/],
		["fifo", [{ header: { name: "pipe", type: "fifo" } }], /fifo/],
		["duplicate", [file("a/b"), file("./a/b")], /"\.\/a\/b" is there twice/],
		["case", [file("README"), file("readme")], /"readme" differs from "README" only in case/],
		["case of a folder", [file("Dir/a"), file("dir/b")], /differs from "Dir"/],
		["case of a folder entry", [file("Dir/a"), { header: { name: "DIR/", type: "directory" } }], /differs from "Dir"/],
		["sigma", [file("ΟΔΟΣ"), file("οδος")], /only in case/],
		["Unicode form", [file("\u00e9"), file("e\u0301")], /how it is encoded/],
		["file below a file", [file("a"), file("a/b")], /needs a folder where the archive has a file: a/],
		["folder over a file", [file("a"), { header: { name: "a/", type: "directory" } }], /needs a folder/],
		["file over a folder", [file("a/b"), file("a")], /is a file where the archive has a folder/],
		["long path", [file(`${"a/".repeat(600)}b`)], /1201 bytes; at most 1024/],
		["long part", [file("a".repeat(256))], /more than 255 bytes/],
	];
	for (const [name, entries, words] of cases) await t.test(name, async (t) => refused(t, await zipped(entries), words));
});

t.test("limits", async (t) => {
	const many = await zipped([file("a"), file("b"), file("c")]);
	await refused(t, many, /more than 2 files and folders/, { entries: 2 });
	t.equal((await unpackBytes(many, { entries: 3 })).files, 3);
	await refused(t, await zipped([file("a/b/c/d")]), /more than 3 files and folders/, { entries: 3 });
	await refused(t, await zipped([file("a", "12345"), file("b", "12345")]), /more than 9 bytes/, { bytes: 9 });
	t.equal((await unpackBytes(await zipped([file("a", "12345"), file("b", "12345")]), { bytes: 10 })).bytes, 10);
	await refused(t, await zipped([file("a/bc")]), /4 bytes; at most 3/, { path: 3 });
	const bomb = await zipped([file("zeros", "\0".repeat(20 * 1024 ** 2))]);
	await refused(t, bomb, /expands to more than 200 times/);
	t.equal((await unpackBytes(bomb, { ratio: 5000 })).files, 1);
	const huge = await tarOf([file("a")]);
	huge.write("77777777777 ", 124, "latin1");
	huge.write(checksum(huge), 148, "latin1");
	await refused(t, gzipSync(huge), /unpacks to more than/);
});

function checksum(tar: Buffer): string {
	let sum = 8 * 32;
	for (let index = 0; index < 512; index++) if (index < 148 || index >= 156) sum += tar[index] ?? 0;
	return `${sum.toString(8).padStart(6, "0")}\0 `;
}

t.test("broken archives", async (t) => {
	const tar = await tarOf([file("a", "hello"), file("dir/b", "\0".repeat(2048))]);
	const good = gzipSync(tar);
	await refused(t, Buffer.alloc(0), /is empty/);
	await refused(t, Buffer.from("PK\u0003\u0004 not gzip at all"), /is not gzip data/);
	await refused(t, tar, /is not gzip data/);
	for (const cut of [1, 10, Math.floor(good.length / 2), good.length - 1])
		await refused(t, good.subarray(0, cut), /is cut short/);
	await refused(t, Buffer.concat([good, Buffer.from("garbage")]), /is damaged/);
	await refused(t, Buffer.concat([good, Buffer.alloc(100), Buffer.from("x")]), /bytes after the end/);
	const flipped = Buffer.from(good);
	flipped[flipped.length - 6] = (flipped[flipped.length - 6] ?? 0) ^ 1;
	await refused(t, flipped, /is damaged/);
	await refused(t, gzipSync(Buffer.from("hello, this is no tar".repeat(100))), /tar data is not valid/);
	await refused(t, gzipSync(Buffer.alloc(0)), /end-of-archive/);
	const half = Math.floor(tar.length / 2);
	const members = Buffer.concat([gzipSync(tar.subarray(0, half)), gzipSync(tar.subarray(half))]);
	t.equal((await unpackBytes(members)).files, 2, "several gzip members are one archive");
	t.equal((await unpackBytes(members, {}, 1)).files, 2, "also byte by byte");
});

t.test("a tar that is cut anywhere is never taken for a whole one", async (t) => {
	// Ends with zeros of its own, so that the end marker has to be told from content.
	const tar = await tarOf([file("a", "hello"), file("b", "\0".repeat(1500))]);
	const whole = tar.length;
	let accepted = 0;
	for (let length = 0; length < whole; length += 100) {
		try {
			await unpackBytes(gzipSync(tar.subarray(0, length)));
			accepted++;
			t.comment(`accepted at ${length} of ${whole}`);
		} catch (error) {
			if (!isAppError(error, "invalid_argument")) throw error;
		}
	}
	t.equal(accepted, 0);
});

t.test("a cancelled call and a failing source", async (t) => {
	const controller = new AbortController();
	const bytes = await archiveOf({ a: "x" });
	async function* stuck(): AsyncGenerator<Uint8Array> {
		yield bytes.subarray(0, 20);
		controller.abort();
		await new Promise((resolve) => setImmediate(resolve));
		yield bytes.subarray(20);
	}
	await t.rejects(unpack(stuck(), join(await folder(), "x"), {}, controller), { code: "cancelled" });
	await t.rejects(unpack(stuck(), join(await folder(), "x"), {}, controller), { code: "cancelled" });
	async function* failing(): AsyncGenerator<Uint8Array> {
		yield bytes.subarray(0, 20);
		throw new Error("the disk fell out");
	}
	await t.rejects(unpack(failing(), join(await folder(), "x"), {}, { signal }), { code: "internal" });
});

t.test("any tree of files comes out as it went in", async (t) => {
	const segment = fc.stringMatching(/^[a-z0-9_-]{1,40}$/);
	const path = fc.array(segment, { minLength: 1, maxLength: 6 }).map((parts) => parts.join("/"));
	const tree = fc
		.dictionary(path, fc.uint8Array({ maxLength: 3000 }), { maxKeys: 12, noNullPrototype: true })
		.filter((files) => {
			const names = Object.keys(files);
			return !names.some((name) => names.some((other) => other.startsWith(`${name}/`)));
		});
	await fc.assert(
		fc.asyncProperty(tree, fc.integer({ min: 1, max: 5000 }), async (files, chunk) => {
			const into = join(await mkdtemp(join(tmpdir(), "unpack-test-")), "tree");
			try {
				const result = await unpack(inReusedChunks(await archiveOf(files), chunk), into, {}, { signal });
				if (result.files !== Object.keys(files).length) return false;
				for (const [name, body] of Object.entries(files))
					if (!(await readFile(join(into, name))).equals(body)) return false;
				return true;
			} finally {
				await rm(join(into, ".."), { recursive: true, force: true });
			}
		}),
		{ numRuns: 60 },
	);
	t.pass("60 trees");
});
