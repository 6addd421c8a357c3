import { open, readFile, rename } from "node:fs/promises";
import { systemCode } from "../errors.ts";
import { type Account, matches, newToken, type TokenStore, tokenId } from "./tokens.ts";

const ADMINISTRATOR: Account = { name: "admin", namespace: "default", administrator: true };

/**
 * Sees to it that the file holds a working token of the administrator's, readable by the server's user alone. The store
 * holds only its hash. A file that was deleted (or whose token is not known) is replaced by a new token, and no other
 * token of the administrator's works from then on: deleting the file is how a token that got about is withdrawn.
 */
export async function ensureAdminToken(file: string, tokens: TokenStore, now: Date): Promise<void> {
	const existing = await readIfThere(file);
	const id = existing === undefined ? undefined : tokenId(existing);
	const known = id === undefined ? undefined : await tokens.get(id);
	if (existing !== undefined && known !== undefined && matches(known, existing)) {
		await withdrawOthers(tokens, known.id);
		return;
	}
	const { token, record } = newToken(ADMINISTRATOR, now);
	await tokens.put(record);
	// Whole or not at all: a crash in between leaves a hash that nobody has the token of, which opens nothing.
	const temporary = `${file}.new`;
	const handle = await open(temporary, "w", 0o600);
	try {
		await handle.chmod(0o600);
		await handle.writeFile(`${token}\n`);
		await handle.sync();
	} finally {
		await handle.close();
	}
	await rename(temporary, file);
	await withdrawOthers(tokens, record.id);
}

async function withdrawOthers(tokens: TokenStore, id: string): Promise<void> {
	for await (const { id: other, account } of tokens.all())
		if (other !== id && account.name === ADMINISTRATOR.name) await tokens.delete(other);
}

async function readIfThere(file: string): Promise<string | undefined> {
	try {
		return (await readFile(file, "utf8")).trim();
	} catch (error) {
		if (systemCode(error) === "ENOENT") return undefined;
		throw error;
	}
}
