import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import t from "tap";
import { LevelTokenStore } from "../../src/accounts/level-tokens.ts";
import { authenticate, newToken } from "../../src/accounts/tokens.ts";
import { Database } from "../../src/leveldb/database.ts";

const ACCOUNT = { name: "ann", namespace: "ann", administrator: false };

async function opened(
	t: { teardown(action: () => Promise<void>): unknown },
	write?: (write: () => Promise<void>) => Promise<void>,
) {
	const folder = await mkdtemp(path.join(tmpdir(), "runtime-tokens-"));
	const database = await Database.open(folder, { reserve: 0, ...(write === undefined ? {} : { write }) });
	t.teardown(async () => {
		await database[Symbol.asyncDispose]();
		await rm(folder, { recursive: true, force: true });
	});
	return { database, tokens: new LevelTokenStore(database) };
}

t.test("a token that was withdrawn opens nothing from then on, however it was read meanwhile", async (t) => {
	const { tokens } = await opened(t);
	for (let round = 0; round < 50; round++) {
		const { token, record } = newToken(ACCOUNT, new Date());
		await tokens.put(record);
		if (round % 2 === 0) await authenticate(tokens, `Bearer ${token}`);
		const reads: Promise<unknown>[] = [];
		let gone = false;
		const withdrawal = tokens.delete(record.id).then(() => {
			gone = true;
		});
		while (!gone) {
			reads.push(tokens.get(record.id));
			await new Promise((resolve) => setImmediate(resolve));
		}
		await Promise.all([withdrawal, ...reads]);
		await t.rejects(authenticate(tokens, `Bearer ${token}`), { code: "unauthenticated" });
	}
});

t.test("what is read while a change is being written is not kept", async (t) => {
	let held: PromiseWithResolvers<void> | undefined;
	const { tokens } = await opened(t, async (write) => {
		await held?.promise;
		await write();
	});
	const { record } = newToken(ACCOUNT, new Date());
	await tokens.put(record);
	held = Promise.withResolvers();
	const withdrawal = tokens.delete(record.id);
	t.match(await tokens.get(record.id), record, "not withdrawn yet");
	held.resolve();
	await withdrawal;
	t.equal(await tokens.get(record.id), undefined);
});

t.test("a token is asked of the database once", async (t) => {
	const { database, tokens } = await opened(t);
	const { token, record } = newToken(ACCOUNT, new Date());
	await tokens.put(record);
	await authenticate(tokens, `Bearer ${token}`);
	// Past the store, as nobody does: that it is not seen shows where the answer comes from.
	await database.commit([{ delete: `token!${record.id}` }]);
	t.match(await authenticate(tokens, `Bearer ${token}`), ACCOUNT);
});
