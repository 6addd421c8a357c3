import { connect, type Socket } from "node:net";

/** HTTP/1.1 by hand, in constant memory and with next to no work, so that the client is never what is measured. */
export type Exchange = {
	readonly url: string;
	readonly method: string;
	readonly path: string;
	readonly headers: Readonly<Record<string, string | number>>;
	/** Pieces of the body, sent one by one. */
	readonly body?: Iterable<Uint8Array>;
};

export type Answer = {
	readonly status: number;
	/** Bytes of the answer's body. */
	readonly length: number;
	/** The body's first bytes, in which a small one is whole. */
	readonly start: string;
};

const READ = 1024 * 1024;

/** Resolves when the whole answer is there; rejects where the connection ends before. */
export function exchange({ url, method, path, headers, body }: Exchange): Promise<Answer> {
	const { hostname, port, host } = new URL(url);
	return new Promise((resolve, reject) => {
		const answer = new AnswerReader();
		const socket = connect({
			host: hostname,
			port: Number(port),
			onread: {
				buffer: Buffer.allocUnsafeSlow(READ),
				callback: (length, buffer) => {
					const done = answer.take(buffer.subarray(0, length));
					if (done === undefined) return true;
					resolve(done);
					socket.destroy();
					return false;
				},
			},
		});
		socket.on("error", reject);
		socket.on("close", () => reject(new Error(`${method} ${path}: the connection was closed too early`)));
		const lines = Object.entries({ host, connection: "close", ...headers }).map(([name, value]) => `${name}: ${value}`);
		socket.write(`${method} ${path} HTTP/1.1\r\n${lines.join("\r\n")}\r\n\r\n`);
		if (body !== undefined) sendAll(socket, body).catch(reject);
	});
}

async function sendAll(socket: Socket, body: Iterable<Uint8Array>): Promise<void> {
	for (const piece of body)
		await new Promise<void>((resolve, reject) => {
			socket.write(piece, (error) => (error ? reject(error) : resolve()));
		});
}

class AnswerReader {
	#head = "";
	#start = "";
	#status = 0;
	#expected: number | undefined;
	#length = 0;

	/** The answer, once it is whole. Understands answers with a content-length. */
	take(chunk: Uint8Array): Answer | undefined {
		let rest = chunk;
		if (this.#expected === undefined) {
			const before = this.#head.length;
			this.#head += latin1(chunk);
			const end = this.#head.indexOf("\r\n\r\n");
			if (end < 0) return undefined;
			this.#status = Number(this.#head.split(" ")[1]);
			const length = /\r\ncontent-length: *(\d+)/i.exec(this.#head.slice(0, end))?.[1];
			this.#expected = Number(length ?? 0);
			rest = chunk.subarray(end + 4 - before);
		}
		if (this.#start.length < 4096) this.#start += latin1(rest.subarray(0, 4096));
		this.#length += rest.length;
		if (this.#length < this.#expected) return undefined;
		return { status: this.#status, length: this.#length, start: this.#start };
	}
}

function latin1(bytes: Uint8Array): string {
	return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString("latin1");
}

/** Throws unless the answer has this status. */
export function expectStatus(answer: Answer, ...statuses: readonly number[]): Answer {
	if (statuses.includes(answer.status)) return answer;
	throw new Error(`expected ${statuses.join(" or ")}, got ${answer.status}: ${answer.start}`);
}
