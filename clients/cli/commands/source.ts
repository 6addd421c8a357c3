import type { Context, Input } from "../context.ts";
import { dryRun } from "../dry-run.ts";
import { CliError, EXIT } from "../errors.ts";
import { Interrupts } from "../interrupts.ts";
import { contractNotice } from "../notices.ts";
import { readRuntimeFile } from "../runtime-file.ts";
import { listFiles } from "../source/files.ts";
import { locate } from "../source/root.ts";
import { uploaded } from "../uploading.ts";

/** Uploads a folder as `run` would, and prints the key that `deploy --source` takes. */
export async function uploadSource(context: Context, { args, options }: Input): Promise<number> {
	const local = locate(args[0] ?? ".", context.cwd, context.env);
	context.projectNamespace = readRuntimeFile(local.folder)?.namespace;
	const aborted = new AbortController();
	const { signal } = aborted;
	if (options.flag("dryRun")) return dryRun(context, local, await listFiles(local.root, signal));
	const interrupts = new Interrupts(process.stdin, false);
	interrupts.handle = () =>
		aborted.abort(new CliError("Cancelled; nothing was kept", { exit: EXIT.cancelled, code: "cancelled" }));
	const screen = await context.screen();
	try {
		const api = await context.api();
		const [session, files] = await Promise.all([api.session(signal), listFiles(local.root, signal)]);
		contractNotice(session, screen);
		const stored = await uploaded(api, files, session, screen, signal);
		screen.close();
		if (context.json) context.printJson({ ...stored, entrypoint: local.entrypoint });
		else context.print(stored.source);
		return EXIT.ok;
	} catch (error) {
		throw signal.aborted ? signal.reason : error;
	} finally {
		screen.close();
		interrupts.close();
	}
}
