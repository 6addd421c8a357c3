import { createReadStream } from "node:fs";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { createGzip } from "node:zlib";
import { pack } from "tar-stream";
import { cancelled } from "../../errors.ts";
import type { ContentFile } from "./contents.ts";

const EPOCH = new Date(0);
const CHUNK = 256 * 1024;

/** A tar.gz of files below a folder. The same files give the same bytes: in the order given, without times and owners. */
export async function* archiveFiles(
	folder: string,
	files: readonly ContentFile[],
	signal: AbortSignal,
): AsyncGenerator<Uint8Array> {
	const gzip = createGzip({ level: 1, chunkSize: CHUNK });
	const zipping = pipeline(() => tar(folder, files), gzip, { signal });
	// Its error is also the stream's, which is read below.
	zipping.catch(() => undefined);
	try {
		yield* gzip;
		await zipping;
	} catch (error) {
		if (signal.aborted) throw cancelled(signal);
		throw error;
	} finally {
		gzip.destroy();
	}
}

async function* tar(folder: string, files: readonly ContentFile[]): AsyncGenerator<Uint8Array> {
	const packer = pack();
	const filling = fill(packer, folder, files);
	filling.catch((error: unknown) => packer.destroy(error instanceof Error ? error : new Error(String(error))));
	try {
		for await (const chunk of packer) if (chunk instanceof Uint8Array) yield chunk;
		await filling;
	} finally {
		packer.destroy(null);
	}
}

async function fill(packer: ReturnType<typeof pack>, folder: string, files: readonly ContentFile[]): Promise<void> {
	for (const { path, size, executable } of files) {
		const entry = packer.entry({ name: path, size, mode: executable ? 0o755 : 0o644, mtime: EPOCH });
		const failed = new Promise<never>((_, reject) => entry.once("error", reject));
		failed.catch(() => undefined);
		const closed = new Promise<void>((resolve) => entry.once("close", () => resolve()));
		for await (const chunk of createReadStream(join(folder, path), { highWaterMark: CHUNK })) {
			if (entry.write(chunk)) continue;
			await Promise.race([new Promise<void>((resolve) => entry.once("drain", () => resolve())), closed, failed]);
			if (entry.destroyed) return;
		}
		entry.end(undefined);
		if (entry.destroyed) return;
	}
	packer.finalize();
}
