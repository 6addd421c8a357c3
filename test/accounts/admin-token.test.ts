import { mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import t, { type Test } from "tap";
import { ensureAdminToken } from "../../src/accounts/admin-token.ts";
import { LevelTokenStore } from "../../src/accounts/level-tokens.ts";
import { authenticate, newToken } from "../../src/accounts/tokens.ts";
import { Database } from "../../src/leveldb/database.ts";

async function open(t: Test) {
	const folder = await mkdtemp(path.join(tmpdir(), "runtime-token-"));
	const database = await Database.open(path.join(folder, "records"));
	t.teardown(async () => {
		await database[Symbol.asyncDispose]();
		await rm(folder, { recursive: true, force: true });
	});
	const file = path.join(folder, "admin-token");
	const tokens = new LevelTokenStore(database);
	const issue = async () => {
		await ensureAdminToken(file, tokens, new Date());
		return (await readFile(file, "utf8")).trim();
	};
	return { database, file, tokens, issue };
}

t.test("the administrator's token is in a file of the user's alone, and only its hash is stored", async (t) => {
	const { database, file, tokens, issue } = await open(t);
	const token = await issue();
	t.equal((await stat(file)).mode & 0o777, 0o600);
	t.match(await authenticate(tokens, `Bearer ${token}`), { administrator: true, namespace: "default" });
	let stored = "";
	for await (const [key, value] of database.range({ gt: "", lt: "~" })) stored += key + value;
	t.match(stored, /"hash"/);
	t.notOk(stored.includes(token.split("_")[2] ?? token), "the secret is not in the records");
	t.equal(await issue(), token, "it stays the same over restarts");
});

t.test("deleting the file withdraws the token: there is a new one, and the old one is refused", async (t) => {
	const { file, tokens, issue } = await open(t);
	const old = await issue();
	const tenant = newToken({ name: "tenant", namespace: "t", administrator: false }, new Date());
	await tokens.put(tenant.record);
	await rm(file);
	const fresh = await issue();
	t.not(fresh, old);
	await t.rejects(authenticate(tokens, `Bearer ${old}`), { code: "unauthenticated" });
	t.equal((await authenticate(tokens, `Bearer ${fresh}`)).name, "admin");
	t.equal((await authenticate(tokens, `Bearer ${tenant.token}`)).name, "tenant", "others' tokens are left alone");
	await writeFile(file, `${old}\n`);
	t.notOk([old, fresh].includes(await issue()), "a file with a token that is not known is replaced");
	t.equal((await stat(file)).mode & 0o777, 0o600);
});

t.test("what is no token, or not this one, is refused", async (t) => {
	const { tokens, issue } = await open(t);
	const token = await issue();
	const flipped = `${token.slice(0, -1)}${token.endsWith("A") ? "B" : "A"}`;
	for (const header of [
		undefined,
		"",
		token,
		`Basic ${token}`,
		"Bearer",
		"Bearer ",
		`Bearer ${flipped}`,
		`Bearer ${token}x`,
		`Bearer ${token} more`,
		"Bearer rb_000000000000_x",
		"Bearer __proto__",
	])
		await t.rejects(authenticate(tokens, header), { code: "unauthenticated" }, String(header));
	t.ok(await authenticate(tokens, `bearer   ${token} `), "the scheme's case and spaces do not matter");
});
