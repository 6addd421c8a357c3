import { crc32 } from "node:zlib";
import { AppError } from "../errors.ts";
import { FIRST_KEY } from "./ledger.ts";

export type Operation = { readonly put: string; readonly value: string } | { readonly delete: string };

/** As LevelDB takes it. */
export type Entry = { type: "put"; key: string; value: string } | { type: "del"; key: string };

export function entryOf(operation: Operation): Entry {
	const key = "put" in operation ? operation.put : operation.delete;
	if (key < FIRST_KEY)
		throw new AppError("invalid_argument", "a key must not be empty or start with a NUL", { field: "key" });
	return "put" in operation ? { type: "put", key, value: seal(key, operation.value) } : { type: "del", key };
}

/** LevelDB verifies no checksum when it reads through this binding, so each value carries its own, over its key too. */
function seal(key: string, value: string): string {
	return checksum(key, value) + value;
}

/** The value. Throws `internal` where its checksum does not match. */
export function unseal(key: string, stored: string): string {
	const value = stored.slice(8);
	if (stored.slice(0, 8) !== checksum(key, value)) {
		throw new AppError("internal", `the database's record ${JSON.stringify(key)} is damaged`, {
			hint: "restore the folder from a backup",
		});
	}
	return value;
}

function checksum(key: string, value: string): string {
	return crc32(value, crc32(key)).toString(16).padStart(8, "0");
}
