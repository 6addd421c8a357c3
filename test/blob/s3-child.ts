/**
 * A process of its own. `s3-child.ts write|large` with the store's options as JSON in S3_OPTIONS; prints one line for each thing
 * that it was told.
 */
import { createHash } from "node:crypto";
import { S3BlobStore } from "../../src/blob/s3/store.ts";
import { never, pattern, reusedChunks, text } from "../conformance/blob.ts";

const MIB = 1024 * 1024;
const LARGE = 1024;

await using store = await S3BlobStore.open(JSON.parse(process.env.S3_OPTIONS ?? "{}"));
await store.swept;
if (process.argv[2] === "write") {
	await store.put("kept", text("acknowledged"), never());
	console.log("stored kept");
	await store.put("victim", reusedChunks(pattern(11 * MIB), 65_536), never());
	console.log("stored victim");
	await store.delete("victim", never());
	console.log("deleted victim");
} else {
	const block = pattern(MIB);
	let peak = 0;
	const look = () => {
		peak = Math.max(peak, process.memoryUsage.rss());
	};
	const body = async function* (count: number): AsyncGenerator<Uint8Array> {
		for (let index = 0; index < count; index++) {
			block.writeUInt32LE(index);
			for (let offset = 0; offset < MIB; offset += 65_536) yield block.subarray(offset, offset + 65_536);
			look();
		}
	};
	const get = async (key: string) => {
		const hash = createHash("sha256");
		for await (const chunk of await store.get(key, never())) {
			hash.update(chunk);
			look();
		}
		return hash.digest("hex");
	};
	await store.put("warm", body(1), never());
	await get("warm");
	const before = process.memoryUsage.rss();
	const { size, sha256 } = await store.put("large", body(LARGE), never());
	const put = (peak - before) / MIB;
	const between = process.memoryUsage.rss();
	peak = 0;
	const same = (await get("large")) === sha256;
	console.log(JSON.stringify({ size, same, put, get: (peak - between) / MIB }));
}
