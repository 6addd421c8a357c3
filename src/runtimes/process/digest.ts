import { createHash } from "node:crypto";
import { open } from "node:fs/promises";

/** Bytes; each read is a trip to another thread. */
const READ_AT_ONCE = 512 * 1024;

/**
 * Lower-case hex SHA-256 of a file as it is on the disk. While one part is hashed the next is read, into the same two buffers
 * again and again.
 */
export async function digestOf(file: string): Promise<string> {
	const hash = createHash("sha256");
	const handle = await open(file, "r");
	try {
		const read = (into: Buffer) => handle.read(into, 0, into.length, null);
		let [full, spare] = [Buffer.allocUnsafeSlow(READ_AT_ONCE), Buffer.allocUnsafeSlow(READ_AT_ONCE)];
		let reading = read(full);
		for (;;) {
			const { bytesRead } = await reading;
			if (bytesRead === 0) return hash.digest("hex");
			reading = read(spare);
			hash.update(full.subarray(0, bytesRead));
			[full, spare] = [spare, full];
		}
	} finally {
		await handle.close();
	}
}
