import { createHash, randomBytes } from "node:crypto";
import { createWriteStream } from "node:fs";
import { chmod, open, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { pipeline } from "node:stream/promises";
import { buildPath } from "../api.ts";
import type { Context, Input } from "../context.ts";
import { CliError, EXIT, isCliError } from "../errors.ts";
import { missingService, withRevisions } from "../notices.ts";
import { reasonOf } from "../reasons.ts";

/** Writes a build beside its final name, checks it against the server's digest, and only then puts it there. */
export async function download(context: Context, { args, options }: Input): Promise<number> {
	const [name = "", version = "latest"] = args;
	const revision = options.integer("revision", "--revision", 1, 1_000_000_000);
	const target = await fileFor(resolve(context.cwd, options.text("output") ?? name), name);
	const temporary = join(dirname(target), `.${basename(target)}.${randomBytes(6).toString("hex")}.part`);
	const api = await context.api();
	const stop = new AbortController();
	const leave = () =>
		stop.abort(new CliError("Cancelled; nothing was written", { exit: EXIT.cancelled, code: "cancelled" }));
	const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
	for (const signal of signals) process.once(signal, leave);
	try {
		const response = await api.open(buildPath(name, version), "application/octet-stream", { revision }, stop.signal);
		const expected = /sha-256=:([A-Za-z0-9+/=]+):/.exec(String(response.headers["repr-digest"] ?? ""))?.[1];
		const hash = createHash("sha256");
		let size = 0;
		const measured = async function* (body: AsyncIterable<Buffer>) {
			for await (const piece of body) {
				hash.update(piece);
				size += piece.length;
				yield piece;
			}
		};
		await pipeline(response, measured, createWriteStream(temporary, { flags: "wx", mode: 0o600 }), {
			signal: stop.signal,
		}).catch((error: unknown) => {
			if (stop.signal.aborted) throw stop.signal.reason;
			throw new CliError(`The download broke off: ${reasonOf(error)}`, {
				exit: EXIT.unreachable,
				code: "connection_lost",
				lines: ["Try again"],
			});
		});
		const digest = hash.digest();
		if (expected !== digest.toString("base64")) {
			const why =
				expected === undefined
					? "The server sent no digest to check it by"
					: "What arrived is not what the server sent (its digest differs)";
			throw new CliError(`${why}; nothing was written`, { code: "digest_mismatch" });
		}
		await synced(temporary);
		await chmod(temporary, 0o755);
		await rename(temporary, target);
		if (context.json) context.printJson({ file: target, digest: `sha256:${digest.toString("hex")}`, size });
		else context.print(target);
		return EXIT.ok;
	} catch (error) {
		await rm(temporary, { force: true });
		if (stop.signal.aborted) throw stop.signal.reason;
		if (!isCliError(error, "not_found")) throw withRevisions(error, api, name, version);
		const missing = await api.service(name, version).then(
			() => undefined,
			(problem: unknown) => (isCliError(problem, "not_found") ? missingService(api, name, version) : undefined),
		);
		throw missing ?? withRevisions(error, api, name, version);
	} finally {
		for (const signal of signals) process.off(signal, leave);
	}
}

async function synced(path: string): Promise<void> {
	const file = await open(path, "r+");
	try {
		await file.sync();
	} finally {
		await file.close();
	}
}

/** A folder that is there means the build's name in it. */
async function fileFor(path: string, name: string): Promise<string> {
	const stats = await stat(path).catch(() => undefined);
	return stats?.isDirectory() ? join(path, name) : path;
}
