import { readdir } from "node:fs/promises";
import path from "node:path";

/** What is in a server's work folder, but for the one of its sandbox, which is there for as long as the server lives. */
export async function workIn(dataDir: string): Promise<string[]> {
	const names = await readdir(path.join(dataDir, "work"));
	const sandbox = names.find((name) => name.startsWith("sandbox-"));
	return names.filter((name) => name !== sandbox);
}
