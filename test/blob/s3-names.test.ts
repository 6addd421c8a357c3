import fc from "fast-check";
import t from "tap";
import { decodeKey, encodeKey, encodePrefix } from "../../src/blob/s3/names.ts";

const segment = fc.stringMatching(/^[A0z_-][A0z._-]{0,9}$/).filter((text) => text.length > 0);
const key = fc.array(segment, { minLength: 1, maxLength: 4 }).map((segments) => segments.join("/"));
const PIECE = 3;

t.test("names sort as their keys, give them back, and none is the folder of another", async (t) => {
	fc.assert(
		fc.property(key, key, (a, b) => {
			const [nameA, nameB] = [encodeKey(a, PIECE), encodeKey(b, PIECE)];
			t.equal(decodeKey(nameA), a);
			t.equal(nameA < nameB, a < b, `${a} ${b}`);
			t.notOk(nameB.startsWith(`${nameA}/`));
			t.ok(
				nameA.split("/").every((part) => part.length <= PIECE + 2 && !part.startsWith(".")),
				nameA,
			);
		}),
		{ numRuns: 2_000 },
	);
});

t.test("a prefix finds its keys' names, and no others", async (t) => {
	fc.assert(
		fc.property(key, key, fc.nat(20), (a, b, length) => {
			const prefix = a.slice(0, length);
			for (const other of [a, b])
				t.equal(
					encodeKey(other, PIECE).startsWith(encodePrefix(prefix, PIECE)),
					other.startsWith(prefix),
					`${prefix} ${other}`,
				);
		}),
		{ numRuns: 2_000 },
	);
});
