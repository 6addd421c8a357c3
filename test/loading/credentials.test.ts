import { readFile, stat, writeFile } from "node:fs/promises";
import path from "node:path";
import t from "tap";
import { Credentials } from "../../src/loading/credentials.ts";
import { ownFolder } from "./desk.ts";

const CLAIM = { id: "6a0d-b", revision: 3 };

t.test("one is for its namespace, its id and its revision alone", async (t) => {
	const credentials = await Credentials.open(path.join(await ownFolder(t), "secret"));
	const token = credentials.issue("team", CLAIM);
	t.match(token, /^rbl_6a0d-b\.3\.[\w-]{43}$/);
	t.same(credentials.claim(token), CLAIM);
	t.ok(credentials.proves(token, "team"));
	for (const namespace of ["", "tea", "team2", "default"]) t.notOk(credentials.proves(token, namespace), namespace);
	const [, , proof] = token.split(".");
	for (const altered of [
		...[`rbl_6a0d-b.4.${proof}`, `rbl_6a0d-c.3.${proof}`, `rbl_6a0d-b.33.${proof}`, `rbl_6a0d-b.3.${"A".repeat(43)}`],
		...[`rbl_6a0d-b.03.${proof}`, `${token}A`, token.slice(0, -1), `rb_6a0d-b.3.${proof}`, `${token}\n`, "", "rbl_.."],
	])
		t.notOk(credentials.proves(altered, "team"), altered);
	for (let index = 0; index < 43; index++) {
		const start = token.length - 43 + index;
		const letter = token[start] === "x" ? "y" : "x";
		t.notOk(credentials.proves(token.slice(0, start) + letter + token.slice(start + 1), "team"), `letter ${index}`);
	}
});

t.test("the secret is kept, private, and never replaced", async (t) => {
	const file = path.join(await ownFolder(t), "deep", "secret");
	const token = (await Credentials.open(file)).issue("team", CLAIM);
	t.equal((await stat(file)).mode & 0o777, 0o600);
	t.ok((await Credentials.open(file)).proves(token, "team"));
	const text = await readFile(file, "utf8");
	for (const damage of ["", "\n", text.slice(0, 20), `${text}x`, "!".repeat(43)]) {
		await writeFile(file, damage);
		await t.rejects(Credentials.open(file), { code: "internal", message: /damaged/, hint: /backup/ });
		t.equal(await readFile(file, "utf8"), damage);
	}
	const other = await Credentials.open(path.join(await ownFolder(t), "secret"));
	t.notOk(other.proves(token, "team"), "another server's is none here");
});
