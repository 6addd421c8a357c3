import { AppError } from "../errors.ts";

const MAX_LENGTH = 1024;

/**
 * The folder of the program inside a source, normalised: relative, `/`-separated, `.` for the root, never escaping.
 * Rejects with `invalid_argument`, field `entrypoint`.
 */
export function normaliseEntrypoint(text: string | undefined): string {
	if (text === undefined || text === "") return ".";
	const refuse = (why: string) =>
		new AppError("invalid_argument", `the entrypoint ${JSON.stringify(text.slice(0, 200))} ${why}`, {
			field: "entrypoint",
			hint: "Name the program's folder relative to the source's root, such as `cmd/server`; `.` is the root.",
		});
	if (text.length > MAX_LENGTH) throw refuse(`is longer than ${MAX_LENGTH} characters`);
	if (text.startsWith("/") || /^[A-Za-z]:[\\/]/.test(text)) throw refuse("is an absolute path");
	if (text.includes("\\")) throw refuse("holds a backslash; separate folders by `/`");
	if (/\p{Cc}/u.test(text)) throw refuse("holds a control character");
	const segments: string[] = [];
	for (const segment of text.split("/")) {
		if (segment === "" || segment === ".") continue;
		if (segment !== "..") segments.push(segment);
		else if (segments.pop() === undefined) throw refuse("leads out of the source");
	}
	return segments.length === 0 ? "." : segments.join("/");
}
