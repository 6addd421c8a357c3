import type { Context } from "./context.ts";
import { EXIT } from "./errors.ts";
import { count, size } from "./format.ts";
import type { SourceFiles } from "./source/files.ts";
import type { LocalSource } from "./source/root.ts";

/** What would be uploaded, and nothing else: one line for each file, its size before its path. */
export function dryRun(
	context: Context,
	local: LocalSource,
	files: SourceFiles,
	service?: { readonly name: string; readonly version: string },
): number {
	for (const { path, why } of files.skipped) context.say(`${path} is left out: ${why}`);
	if (context.json) {
		const list = files.files.map((file) => ({ path: file.path, size: file.size }));
		context.printJson({
			name: service?.name,
			version: service?.version,
			root: local.root,
			entrypoint: local.entrypoint,
			size: files.size,
			files: list,
		});
	} else if (context.stdout.isTTY) {
		const width = Math.max(0, ...files.files.map((file) => size(file.size).length));
		for (const file of files.files) context.print(`${size(file.size).padStart(width)}  ${file.path}`);
	} else for (const file of files.files) context.print(`${file.size}\t${file.path}`);
	const title = service === undefined ? "" : `${service.name}:${service.version}: `;
	const total = `${count(files.files.length, "file")}, ${size(files.size)}`;
	context.say(`${title}${total} of ${local.root}, entrypoint ${local.entrypoint}; nothing was sent`);
	return EXIT.ok;
}
