import { fork } from "node:child_process";
import { once } from "node:events";
import { appendFileSync, createWriteStream, existsSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import t, { type Test } from "tap";
import type { OutputSource } from "../../src/runtimes/output/follower.ts";
import { LineCutter } from "../../src/runtimes/output/lines.ts";
import { ServiceLog, type ServiceLogOptions } from "../../src/runtimes/output/log.ts";
import { readLog } from "../../src/runtimes/output/reader.ts";
import type { LogItem, LogLine, LogQuery } from "../../src/runtimes/runtime.ts";

const never = new AbortController().signal;

async function place(test: Test): Promise<{ log: string; source: OutputSource }> {
	const root = await mkdtemp(join(tmpdir(), "output-"));
	test.teardown(() => rm(root, { recursive: true, force: true }));
	return {
		log: join(root, "log"),
		source: { file: join(root, "a.out"), revision: 1, instance: "i1", stream: "stdout" },
	};
}

async function opened(test: Test, folder: string, options?: ServiceLogOptions): Promise<ServiceLog> {
	const log = await ServiceLog.open(folder, options);
	test.teardown(() => log[Symbol.asyncDispose]());
	return log;
}

async function read(folder: string, query: Partial<LogQuery> = {}): Promise<LogItem[]> {
	const items: LogItem[] = [];
	for await (const item of readLog(folder, { follow: false, ...query }, { signal: never })) items.push(item);
	return items;
}

const linesOf = (items: readonly LogItem[]): LogLine[] => items.flatMap((item) => ("line" in item ? [item.line] : []));
const texts = (items: readonly LogItem[]): string[] => linesOf(items).map((line) => line.text);

async function until(condition: () => boolean | Promise<boolean>, what: string): Promise<void> {
	const limit = performance.now() + 60_000;
	while (!(await condition())) {
		if (performance.now() > limit) throw new Error(`not seen in time: ${what}`);
		await delay(5);
	}
}

t.test("bytes become lines, however they are cut up", async (t) => {
	const long = `${"x".repeat(16 * 1024 - 1)}€tail`;
	const bytes = Buffer.concat([
		Buffer.from(`a\r\n\nzwölf €\nb\rc\n${long}\n`),
		Buffer.from([0xff, 0x41, 0x0a]),
		Buffer.from("open"),
	]);
	const expected = ["a", "", "zwölf €", "b\rc", "x".repeat(16 * 1024 - 1), "€tail", "\ufffdA"];
	for (const size of [1, 2, 3, 7, 1000, bytes.length]) {
		const cutter = new LineCutter(100);
		const lines = [];
		for (let at = 0; at < bytes.length; at += size) lines.push(...cutter.push(bytes.subarray(at, at + size)));
		t.same(
			lines.map((line) => line.text),
			expected,
			`in pieces of ${size}`,
		);
		t.equal(lines.at(-1)?.end, 100 + bytes.length - 4);
		t.equal(cutter.pendingBytes, 4);
		t.same(cutter.finish(), { text: "open", end: 100 + bytes.length });
		t.equal(cutter.finish(), null);
	}
});

t.test("lines are numbered over streams, revisions and openings", async (t) => {
	const { log: folder, source } = await place(t);
	const errors: OutputSource = { ...source, file: `${source.file}.err`, stream: "stderr", revision: 2, instance: "i2" };
	const log = await opened(t, folder, { now: () => new Date("2026-01-02T03:04:05.678Z") });
	const out = log.follow(source);
	t.throws(() => log.follow(source), { code: "conflict" });
	await out.flush();
	appendFileSync(source.file, "one\ntw");
	await out.flush();
	t.same(texts(await read(folder)), ["one"]);
	appendFileSync(source.file, "o\nrest");
	await out.flush();
	appendFileSync(errors.file, "oops\n");
	const err = log.follow(errors);
	await err.flush();
	await out.close(true);
	await out.close(true);
	t.same(await read(folder), [
		{ line: { seq: 1, time: "2026-01-02T03:04:05.678Z", revision: 1, instance: "i1", stream: "stdout", text: "one" } },
		{ line: { seq: 2, time: "2026-01-02T03:04:05.678Z", revision: 1, instance: "i1", stream: "stdout", text: "two" } },
		{ line: { seq: 3, time: "2026-01-02T03:04:05.678Z", revision: 2, instance: "i2", stream: "stderr", text: "oops" } },
		{ line: { seq: 4, time: "2026-01-02T03:04:05.678Z", revision: 1, instance: "i1", stream: "stdout", text: "rest" } },
	]);
	t.same(log.lastLines("i1", 2), ["two", "rest"]);
	t.same(log.lastLines("i1", 0), []);
	t.same(log.lastLines("other", 5), []);
	await log[Symbol.asyncDispose]();

	const again = await opened(t, folder);
	t.same(again.lastLines("i1", 20), ["one", "two", "rest"], "known after a restart");
	appendFileSync(errors.file, "more\n");
	const [o, e] = [again.follow(source), again.follow(errors)];
	await Promise.all([o.flush(), e.flush()]);
	t.same(
		linesOf(await read(folder)).map((line) => `${line.seq} ${line.text}`),
		["1 one", "2 two", "3 oops", "4 rest", "5 more"],
	);
});

t.test("a torn last line is dropped and read again", async (t) => {
	const { log: folder, source } = await place(t);
	writeFileSync(source.file, "one\ntwo\nthree\n");
	const log = await opened(t, folder);
	await log.follow(source).close(true);
	await log[Symbol.asyncDispose]();
	const [name = ""] = readdirSync(folder);
	const whole = await readFile(join(folder, name), "utf8");
	writeFileSync(join(folder, name), whole.slice(0, -9));
	t.same(texts(await read(folder)), ["one", "two"], "a reader takes complete lines only");
	const again = await opened(t, folder);
	await again.follow(source).flush();
	t.same(
		linesOf(await read(folder)).map((line) => `${line.seq} ${line.text}`),
		["1 one", "2 two", "3 three"],
	);
});

t.test("tail, after and since begin where they should, over many segments; old ones go", async (t) => {
	const { log: folder, source } = await place(t);
	let clock = Date.parse("2026-01-01T00:00:00Z");
	const log = await opened(t, folder, { segmentBytes: 200_000, segments: 3, now: () => new Date(clock) });
	const out = log.follow(source);
	const COUNT = 8_000;
	for (let i = 1; i <= COUNT; i += 100) {
		clock = Date.parse("2026-01-01T00:00:00Z") + i * 10;
		let text = "";
		for (let n = i; n < i + 100; n++) text += `line ${n} ${"x".repeat(50)}\n`;
		appendFileSync(source.file, text);
		await out.flush();
	}
	t.ok(readdirSync(folder).length <= 3);
	const all = linesOf(await read(folder));
	const first = all[0]?.seq ?? 0;
	t.ok(first > 1 && first < COUNT - 1_000);
	t.same(
		all.map((line) => line.seq),
		Array.from({ length: COUNT - first + 1 }, (_, i) => first + i),
	);
	t.ok(all.every((line) => line.text.startsWith(`line ${line.seq} `)));
	const firstAndCount = async (query: Partial<LogQuery>) => {
		const lines = linesOf(await read(folder, query));
		return [lines[0]?.seq, lines.length];
	};
	for (const tail of [1, 10, 900, 2_000])
		t.same(await firstAndCount({ tail }), [COUNT - tail + 1, tail], `tail ${tail}`);
	t.same(await firstAndCount({ tail: 0 }), [undefined, 0]);
	t.same(await firstAndCount({ tail: 100_000 }), [first, COUNT - first + 1]);
	for (const after of [COUNT - 1, 7_000, first]) t.same(await firstAndCount({ after }), [after + 1, COUNT - after]);
	t.same(await firstAndCount({ after: COUNT }), [undefined, 0]);
	t.same(await firstAndCount({ after: 7_000, tail: 5 }), [COUNT - 4, 5]);
	const gap = await read(folder, { after: 5 });
	t.same(gap[0], { gap: { from: 6, to: first - 1 } });
	t.equal(gap.length, 1 + all.length);
	for (const from of [7_901, 7_001]) {
		const since = new Date(Date.parse("2026-01-01T00:00:00Z") + from * 10).toISOString();
		t.same(await firstAndCount({ since }), [from, COUNT - from + 1], `since ${from}`);
	}
	t.same(await firstAndCount({ since: "2027-01-01T00:00:00+01:00" }), [undefined, 0]);
	await t.rejects(read(folder, { since: "yesterday" }), { code: "invalid_argument", field: "since" });
});

t.test("follow: from before the folder is there, over rotation, until it is aborted", async (t) => {
	const { log: folder, source } = await place(t);
	t.same(await read(folder), []);
	const abort = new AbortController();
	const seen: LogItem[] = [];
	const reading = (async () => {
		for await (const item of readLog(folder, { follow: true }, { signal: abort.signal })) seen.push(item);
	})();
	await delay(20);
	const log = await opened(t, folder, { segmentBytes: 20_000, segments: 1_000 });
	log.follow(source);
	let latest = 0;
	for (let n = 1; n <= 40; n++) {
		const before = performance.now();
		appendFileSync(source.file, `${`${n} ${"y".repeat(90)}\n`.repeat(50)}`);
		await until(() => seen.length === n * 50, `${n * 50} lines`);
		latest = Math.max(latest, performance.now() - before);
	}
	t.ok(readdirSync(folder).length > 5, "it was rotated");
	t.same(
		linesOf(seen).map((line) => line.seq),
		Array.from({ length: 2_000 }, (_, i) => i + 1),
	);
	t.comment(`longest way from the program to the reader: ${Math.round(latest)} ms`);
	abort.abort();
	await reading;
	const ended = new AbortController();
	ended.abort();
	for await (const item of readLog(folder, { follow: true }, { signal: ended.signal })) t.fail(JSON.stringify(item));
});

t.test("a reader that is too slow is told of the gap", async (t) => {
	const { log: folder, source } = await place(t);
	const log = await opened(t, folder, { segmentBytes: 20_000, segments: 2 });
	const out = log.follow(source);
	appendFileSync(source.file, "first\n");
	await out.flush();
	const abort = new AbortController();
	const items = readLog(folder, { follow: true }, { signal: abort.signal })[Symbol.asyncIterator]();
	t.match((await items.next()).value, { line: { seq: 1, text: "first" } });
	for (let n = 0; n < 20; n++) {
		appendFileSync(source.file, `${"z".repeat(100)}\n`.repeat(100));
		await out.flush();
	}
	let next = 2;
	let gaps = 0;
	while (next <= 2_001) {
		const { value } = await items.next();
		if (value === undefined) throw new Error("ended");
		if ("gap" in value) {
			gaps++;
			t.equal(value.gap.from, next);
			next = value.gap.to + 1;
		} else {
			if (value.line.seq !== next) t.equal(value.line.seq, next);
			next++;
		}
	}
	t.ok(gaps > 0);
	abort.abort();
	await items.return?.(undefined);
});

t.test("a file that starts anew is read from its beginning", async (t) => {
	const { log: folder, source } = await place(t);
	writeFileSync(source.file, "a long first line\n");
	const log = await opened(t, folder);
	const out = log.follow(source);
	await out.flush();
	writeFileSync(source.file, "new\n");
	await out.flush();
	t.same(texts(await read(folder)), ["a long first line", "new"]);
});

const LINE = "a line of a program that says much more than anybody will read, some 100 bytes of it, and then some";

for (const way of ["holes", "truncation"] as const) {
	t.test(`a flood: flat memory, short pauses, and the raw file's bytes are freed by ${way}`, async (t) => {
		const { log: folder, source } = await place(t);
		const MEGABYTES = way === "holes" ? 100 : 30;
		const log = await opened(t, folder, way === "holes" ? {} : { punchHole: async () => false });
		const count = Math.floor((MEGABYTES * 1e6) / (LINE.length + 1));
		const program = createWriteStream(source.file, { flags: "a" });
		t.teardown(() => program.destroy());
		const out = log.follow(source);
		let peak = 0;
		let pause = 0;
		let last = performance.now();
		const before = process.memoryUsage.rss();
		const timer = setInterval(() => {
			peak = Math.max(peak, process.memoryUsage.rss());
			pause = Math.max(pause, performance.now() - last);
			last = performance.now();
		}, 5);
		t.teardown(() => clearInterval(timer));
		const started = performance.now();
		const block = `${LINE}\n`.repeat(100);
		for (let n = 0; n < count; n += 100) if (!program.write(block)) await once(program, "drain");
		program.end();
		await once(program, "close");
		await out.flush();
		const seconds = (performance.now() - started) / 1000;
		t.comment(`${MEGABYTES} MB in ${seconds.toFixed(1)} s = ${Math.round(MEGABYTES / seconds)} MB/s`);
		await out.close(true);
		const growth = Math.round((peak - before) / 1e6);
		t.comment(`memory grew by ${growth} MB, the longest pause was ${Math.round(pause)} ms`);
		t.ok(growth < 128);
		const [tail] = linesOf(await read(folder, { tail: 1 }));
		t.equal(tail?.text, LINE);
		// Truncation may lose what is written in that very moment.
		const all = Math.ceil(count / 100) * 100;
		t.ok(tail !== undefined && tail.seq <= all && tail.seq >= (way === "holes" ? all : 0.95 * all));
		const { blocks, size } = statSync(source.file);
		t.comment(`the raw file has ${size} bytes and takes ${blocks * 512}`);
		t.ok(blocks * 512 < 16e6);
		const kept = readdirSync(folder).reduce((sum, name) => sum + statSync(join(folder, name)).size, 0);
		t.ok(kept < 26e6, `${kept} bytes are kept`);
	});
}

t.test("kill -9 of the writer in mid-flood, again and again: every line once, in order", async (t) => {
	const { log: folder, source } = await place(t);
	const module = JSON.stringify(new URL("../../src/runtimes/output/log.ts", import.meta.url).href);
	const script = `import { ServiceLog } from ${module};
		const log = await ServiceLog.open(${JSON.stringify(folder)}, { segmentBytes: 1 << 20, segments: 10000 });
		log.follow(${JSON.stringify(source)});
		setInterval(() => {}, 1000);
		process.on("disconnect", () => process.exit(0));`;
	const program = createWriteStream(source.file, { flags: "a" });
	t.teardown(() => program.destroy());
	let written = 0;
	let stop = false;
	const flood = (async () => {
		while (!stop) {
			let block = "";
			for (let n = 0; n < 50; n++) block += `${++written} ${"é".repeat(written % 60)}\n`;
			if (!program.write(block)) await once(program, "drain");
			await delay(0);
		}
	})();
	let rounds = 0;
	for (; rounds < 8; rounds++) {
		const before = linesOf(await read(folder, { tail: 1 }))[0]?.seq ?? 0;
		const child = fork("-", [], {
			execArgv: ["--input-type=module", "-e", script],
			stdio: ["ignore", "inherit", "inherit", "ipc"],
		});
		const exit = once(child, "exit");
		await until(async () => (linesOf(await read(folder, { tail: 1 }))[0]?.seq ?? 0) > before + 500, "progress");
		child.kill("SIGKILL");
		await exit;
	}
	stop = true;
	await flood;
	program.end();
	await once(program, "close");
	const log = await opened(t, folder, { segments: 10_000 });
	await log.follow(source).close(true);
	let next = 1;
	let wrong = 0;
	for await (const item of readLog(folder, { follow: false }, { signal: never })) {
		if (!("line" in item) || item.line.seq !== next || item.line.text !== `${next} ${"é".repeat(next % 60)}`) wrong++;
		next++;
	}
	t.equal(wrong, 0);
	t.equal(next - 1, written);
	t.comment(`${written} lines over ${rounds} kills`);
	t.notOk(existsSync(join(folder, "segment.tmp")));
});

t.test("many followers that have nothing to do cost next to nothing", async (t) => {
	const { log: folder, source } = await place(t);
	const log = await opened(t, folder);
	for (let n = 0; n < 200; n++) {
		const file = `${source.file}.${n}`;
		writeFileSync(file, "hello\n");
		await log.follow({ ...source, file }).flush();
	}
	await delay(200);
	const before = process.cpuUsage();
	const started = performance.now();
	await delay(1_000);
	const used = process.cpuUsage(before);
	const share = ((used.user + used.system) / 1000 / (performance.now() - started)) * 100;
	t.comment(`200 idle followers: ${share.toFixed(1)} % of a core`);
	t.ok(share < 25);
});
