import { createHash } from "node:crypto";
import { constants } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { cancelled } from "../errors.ts";
import { type Build, BuildError, type Call } from "./builder.ts";

/** Each read is a trip to another thread. */
const CHUNK = 1024 * 1024;

/** A finished file as a build. `remove` is its disposal. A link is refused: what wrote the file may have been anything. */
export async function builtFile(
	path: string,
	of: Pick<Build, "builder" | "requires"> & { readonly remove: () => Promise<void> },
	call: Call,
): Promise<Build> {
	const hash = createHash("sha256");
	let size = 0;
	for await (const chunk of read(path)) {
		if (call.signal.aborted) throw cancelled(call.signal);
		hash.update(chunk);
		size += chunk.byteLength;
	}
	return {
		body: read(path),
		sha256: hash.digest("hex"),
		size,
		...{ builder: of.builder, requires: of.requires },
		[Symbol.asyncDispose]: of.remove,
	};
}

/** Opened when it is read: a build that is disposed of unread holds no descriptor. */
async function* read(path: string): AsyncGenerator<Uint8Array> {
	// Not waiting: a named pipe would hold a thread of the server's for ever.
	const file: FileHandle = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
	if (!(await file.stat()).isFile()) {
		await file.close();
		throw new BuildError("build_failed", "the build made something that is not a file");
	}
	yield* file.createReadStream({ highWaterMark: CHUNK });
}
