import { createHash, type Hash } from "node:crypto";
import { writeSync } from "node:fs";
import { parentPort } from "node:worker_threads";

/** Writes and hashes batches of several files at a time, beside the thread that receives them. The protocol is of digester.ts. */
export type Request =
	| {
			readonly kind: "write";
			readonly id: number;
			readonly fd: number;
			/** Shared, so that neither side allocates: not to be touched until the reply is there. */
			readonly bytes: SharedArrayBuffer;
			readonly length: number;
			readonly position: number;
	  }
	| { readonly kind: "digest" | "forget"; readonly id: number };

/** One for each request but `forget`, in the order of the requests. */
export type Reply = {
	readonly id: number;
	readonly digest?: string;
	readonly error?: { readonly code: string | undefined; readonly message: string };
};

const hashes = new Map<number, Hash>();

function answer(request: Request): Reply | undefined {
	const { id } = request;
	const hash = hashes.get(id) ?? createHash("sha256");
	if (request.kind === "write") {
		hashes.set(id, hash);
		const batch = new Uint8Array(request.bytes, 0, request.length);
		for (let written = 0; written < batch.length; )
			written += writeSync(request.fd, batch, written, batch.length - written, request.position + written);
		hash.update(batch);
		return { id };
	}
	hashes.delete(id);
	return request.kind === "digest" ? { id, digest: hash.digest("hex") } : undefined;
}

const port = parentPort;
port?.on("message", (request: Request) => {
	let reply: Reply | undefined;
	try {
		reply = answer(request);
	} catch (error) {
		const code = error instanceof Error && "code" in error ? String(error.code) : undefined;
		reply = { id: request.id, error: { code, message: String(error) } };
	}
	if (reply !== undefined) port.postMessage(reply);
});
