import { createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import { AppError } from "../errors.ts";
import { readKept, writeKept } from "./kept-file.ts";

/** What a credential says that it is for. */
export type Claim = { readonly id: string; readonly revision: number };

const FORM = /^rbl_([A-Za-z0-9-]{1,128})\.([1-9]\d{0,8})\.([A-Za-z0-9_-]{43})$/;
const SECRET_BYTES = 32;

/**
 * The right to read one build, for the container that runs it: `rbl_<service id>.<revision>.<HMAC-SHA256, base64url>` over
 * the namespace, the id and the revision. Nothing is stored of one; that its revision may (still) run is asked each time.
 */
export class Credentials {
	readonly #secret: Buffer;

	private constructor(secret: Buffer) {
		this.#secret = secret;
	}

	/** With the secret in a file, made where there is none. Rejects with `internal` where it is damaged. */
	static async open(file: string): Promise<Credentials> {
		const kept = await readKept(file);
		if (kept === undefined) {
			const secret = randomBytes(SECRET_BYTES);
			await writeKept(file, `${secret.toString("base64url")}\n`);
			return new Credentials(secret);
		}
		const secret = Buffer.from(kept.trim(), "base64url");
		if (secret.length === SECRET_BYTES && /^[A-Za-z0-9_-]+\n?$/.test(kept)) return new Credentials(secret);
		throw new AppError("internal", `${file} is damaged: it does not hold a secret`, {
			hint: "Put it back from a backup; or remove it, and restart every service once the server runs.",
		});
	}

	issue(namespace: string, { id, revision }: Claim): string {
		return `rbl_${id}.${revision}.${this.#proof(namespace, { id, revision }).toString("base64url")}`;
	}

	/** What it says that it is for, and nothing is proven yet; undefined where it does not look like a credential. */
	claim(token: string): Claim | undefined {
		const [, id, revision] = FORM.exec(token) ?? [];
		return id === undefined ? undefined : { id, revision: Number(revision) };
	}

	/** Whether it was issued here, for what it claims and in this namespace. */
	proves(token: string, namespace: string): boolean {
		const [, id, revision, proof] = FORM.exec(token) ?? [];
		if (id === undefined || proof === undefined) return false;
		const expected = this.#proof(namespace, { id, revision: Number(revision) }).toString("base64url");
		return timingSafeEqual(Buffer.from(expected), Buffer.from(proof));
	}

	#proof(namespace: string, { id, revision }: Claim): Buffer {
		return createHmac("sha256", this.#secret)
			.update(JSON.stringify(["build", namespace, id, revision]))
			.digest();
	}
}
