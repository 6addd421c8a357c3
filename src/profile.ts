import { readFile, rename, writeFile } from "node:fs/promises";
import { AppError, systemCode } from "./errors.ts";
import type { ServiceStore } from "./manager/store.ts";

/**
 * A data folder's services run as its profile made them: programs of a folder, of builds, or containers. Under another one
 * they would be stopped and started where they are not. `file` says which profile it was. Rejects with `invalid_argument`.
 */
export async function settleProfile(file: string, profile: string, store: ServiceStore): Promise<void> {
	const before = await lastProfile(file);
	if (before === profile) return;
	if (before !== undefined)
		for await (const { name, version } of store.all())
			throw new AppError("invalid_argument", `the services of this data folder are of the profile ${before}`, {
				field: "profile",
				hint: `Start with --profile ${before}, and remove them all (${name}:${version}, …) before you change it; or choose another data folder.`,
			});
	await writeFile(`${file}.new`, `${profile}\n`);
	await rename(`${file}.new`, file);
}

/** Undefined where it is not known: the folder is new, or older than this file. */
async function lastProfile(file: string): Promise<string | undefined> {
	try {
		const text = (await readFile(file, "utf8")).trim();
		return text === "" ? undefined : text;
	} catch (error) {
		if (systemCode(error) === "ENOENT") return undefined;
		throw error;
	}
}
