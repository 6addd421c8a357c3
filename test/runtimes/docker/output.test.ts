import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import t from "tap";
import { Frames } from "../../../src/runtimes/docker/frames.ts";
import { newReading, StreamPosition } from "../../../src/runtimes/docker/stream-position.ts";
import { ServiceLog } from "../../../src/runtimes/output/log.ts";
import { readLog } from "../../../src/runtimes/output/reader.ts";

const { signal } = new AbortController();
const time = (second: number) => `2026-01-01T00:00:${String(second).padStart(2, "0")}.000000000Z`;

function frame(stream: 1 | 2, at: string, text: string): Buffer {
	const payload = Buffer.from(`${at} ${text}`);
	const header = Buffer.alloc(8);
	header[0] = stream;
	header.writeUInt32BE(payload.length, 4);
	return Buffer.concat([header, payload]);
}

t.test("frames come apart the same wherever they are cut", (t) => {
	const entries = [
		{ stream: 1, text: "one\n" },
		{ stream: 2, text: "two words\n" },
		{ stream: 1, text: "x".repeat(300) },
	] as const;
	const bytes = Buffer.concat(entries.map(({ stream, text }, i) => frame(stream, time(i), text)));
	fc.assert(
		fc.property(fc.array(fc.integer({ min: 1, max: 60 }), { minLength: 1 }), (sizes) => {
			const frames = new Frames();
			const seen = new Map<string, string>();
			for (let at = 0, turn = 0; at < bytes.length; turn++) {
				const size = sizes[turn % sizes.length] ?? 1;
				for (const piece of frames.push(bytes.subarray(at, at + size))) {
					const key = `${piece.stream} ${piece.time}`;
					seen.set(key, (seen.get(key) ?? "") + piece.bytes.toString());
				}
				at += size;
			}
			const wanted = entries.map(({ stream, text }, i) => [`${stream === 1 ? "stdout" : "stderr"} ${time(i)}`, text]);
			return JSON.stringify([...seen]) === JSON.stringify(wanted);
		}),
	);
	t.end();
});

t.test("each byte counts once, however often it is read and whenever the log is opened anew", async (t) => {
	const folder = await mkdtemp(join(tmpdir(), "docker-output-"));
	t.teardown(() => rm(folder, { recursive: true, force: true }));
	await writeFile(join(folder, "stdout"), "");
	const source = { file: join(folder, "stdout"), revision: 1, instance: "i", stream: "stdout" } as const;
	const nobody = { flush: async () => undefined, close: async () => undefined };
	// Two entries of one time, a long line in parts of the same time, and a line over two entries.
	const long = "y".repeat(16_384);
	const entries = ["a\n", "b\n", long, long, "end\n", "c", "d\n"].map((text, i) => ({
		text,
		at: time([1, 1, 2, 2, 2, 3, 4][i] ?? 0),
	}));
	for (let until = 1; until <= entries.length; until++) {
		await using log = await ServiceLog.open(join(folder, "log"));
		const position = new StreamPosition(log.take(source, nobody));
		const since = position.since ?? "";
		for (const live of [true, false]) {
			const reading = newReading(live);
			for (const { text, at } of entries.slice(0, until))
				if (at >= since) position.push(reading, at, Buffer.from(text));
		}
		position.close();
	}
	const texts: string[] = [];
	for await (const item of readLog(join(folder, "log"), { follow: false }, { signal }))
		if ("line" in item) texts.push(item.line.text);
	t.same(texts, ["a", "b", long, long, "end", "cd"]);
});
