import { constants } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { cancelled } from "../errors.ts";
import { type Build, BuildError, type Call } from "./builder.ts";

/** Each read is a trip to another thread. */
const CHUNK = 1024 * 1024;

/**
 * A finished file as a build. `remove` is its disposal. A link is refused: what wrote the file may have been anything. It is
 * not hashed here: whoever stores it does that, and what was stored is what counts.
 */
export async function builtFile(
	path: string,
	of: Pick<Build, "builder" | "requires"> & { readonly remove: () => Promise<void> },
	call: Call,
): Promise<Build> {
	if (call.signal.aborted) throw cancelled(call.signal);
	const { file, size } = await opened(path);
	await file.close();
	return {
		body: read(path, size),
		size,
		...{ builder: of.builder, requires: of.requires },
		[Symbol.asyncDispose]: of.remove,
	};
}

/** Opened when it is read: a build that is disposed of unread holds no descriptor. Every chunk is its own: a store may hold several. */
async function* read(path: string, size: number): AsyncGenerator<Uint8Array> {
	const { file } = await opened(path);
	try {
		let left = size;
		while (left > 0) {
			const buffer = Buffer.allocUnsafeSlow(Math.min(CHUNK, left));
			const { bytesRead } = await file.read(buffer, 0, buffer.length, null);
			if (bytesRead === 0) throw new BuildError("build_failed", "what the build made became shorter while it was read");
			left -= bytesRead;
			yield buffer.subarray(0, bytesRead);
		}
	} finally {
		await file.close();
	}
}

async function opened(path: string): Promise<{ readonly file: FileHandle; readonly size: number }> {
	// Not waiting: a named pipe would hold a thread of the server's for ever.
	const file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
	try {
		const found = await file.stat();
		if (!found.isFile()) throw new BuildError("build_failed", "the build made something that is not a file");
		return { file, size: found.size };
	} catch (error) {
		await file.close();
		throw error;
	}
}
