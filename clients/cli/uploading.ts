import type { Api } from "./api.ts";
import { count, size } from "./format.ts";
import type { Screen } from "./screen/screen.ts";
import type { Session, Source } from "./shapes.ts";
import { biggest, type SourceFiles } from "./source/files.ts";
import { upload } from "./upload.ts";

const HUGE_BYTES = 100_000_000;
const HUGE_FILES = 20_000;

/** Uploads as the screen's phase, with a word on what is left out and on what is a lot. */
export async function uploaded(
	api: Api,
	files: SourceFiles,
	session: Session,
	screen: Screen,
	signal: AbortSignal,
): Promise<Source> {
	for (const { path, why } of files.skipped.slice(0, 5)) screen.warn(`${path} is left out: ${why}`);
	if (files.skipped.length > 5) screen.warn(`${files.skipped.length - 5} more are left out`);
	if (files.size > HUGE_BYTES || files.files.length > HUGE_FILES) {
		const most = biggest(files.files).map((entry) => `${entry.path} (${size(entry.size)})`);
		screen.warn(
			`This is a lot: ${count(files.files.length, "file")}, ${size(files.size)}; mostly ${most.join(", ")}. List what is not needed in .runtimeignore`,
		);
	}
	const words = `${count(files.files.length, "file")}, ${size(files.size)}`;
	const started = Date.now();
	screen.keys("ctrl-c cancel");
	screen.begin("Upload", words);
	const onProgress = (read: number) => {
		const percent = files.size === 0 ? 1 : read / files.size;
		screen.update(`${size(read)} of ${size(files.size)}`, percent, files.size);
	};
	try {
		const stored = await upload(api, files, { signal, maxBytes: session.server.maxSourceBytes, onProgress });
		screen.done(words, Date.now() - started);
		return stored;
	} catch (error) {
		screen.fail(words, Date.now() - started);
		throw error;
	}
}
