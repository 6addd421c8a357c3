import { randomFillSync } from "node:crypto";

export const MIB = 1024 * 1024;

/** How much is uploaded and downloaded. */
export const BYTES = Number(process.env.BENCH_MIB ?? 1024) * MIB;

/** Noise that begins like a gzip file. */
export function noise(): Buffer {
	const piece = randomFillSync(Buffer.allocUnsafe(MIB));
	piece.writeUInt16BE(0x1f8b, 0);
	return piece;
}

/** The same piece until there are `bytes`, a whole number of MiB. */
export function* repeated(piece: Buffer, bytes: number): Generator<Buffer, void, undefined> {
	for (let sent = 0; sent < bytes; sent += piece.length) yield piece;
}
