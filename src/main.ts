import { open, readFile, rename, rm } from "node:fs/promises";
import type { AddressInfo } from "node:net";
import path from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { pino } from "pino";
import { compose, type Server } from "./compose.ts";
import { type Config, configHelp, flagOf, loadConfig } from "./config.ts";
import { isAppError, messageOf, systemCode } from "./errors.ts";
import { statusOf } from "./routes/service-view.ts";

/** How long may be looked for what runs, when the server ends. */
const NAMING_MS = 3_000;

/** `runtime server`: resolves to the exit code when the server has ended. */
export async function main(argv: readonly string[]): Promise<number> {
	if (argv.includes("--help") || argv.includes("-h")) {
		process.stdout.write(configHelp());
		return 0;
	}
	let config: Config;
	try {
		config = loadConfig(argv, process.env);
	} catch (error) {
		complain(messageOf(error), isAppError(error) ? error.hint : undefined);
		return 2;
	}
	try {
		return await serve(config);
	} catch (error) {
		complain(...(await explain(error, config)));
		return 1;
	}
}

async function serve(config: Config): Promise<number> {
	// The programs' output, the records and the token are nobody else's business.
	process.umask(0o077);
	const log = pino({ level: config.logLevel }, pino.destination({ dest: 2, sync: true }));
	const ended = untilSignal();
	const server = await compose(config, log);
	const announcement = path.join(config.dataDir, "server.json");
	try {
		await server.start();
		await server.app.listen({ host: config.host, port: config.port });
		const url = urlOf(config, server.app.server.address());
		await announce(announcement, url);
		process.stdout.write(`runtime server is ready at ${url}\n`);
		process.stderr.write(`data in ${config.dataDir}; the CLI on this machine finds it and its token there\n`);
		const why = await Promise.race([ended.first, server.lost]);
		if (why !== undefined) throw why;
		process.stderr.write("Ending: requests finish, builds are put back (again: at once)\n");
		void ended.second.then(() => process.exit(130));
	} finally {
		await rm(announcement, { force: true });
		// Not known where the records are away; ending goes on all the same.
		const running = await Promise.race([nameRunning(server).catch(() => []), delay(NAMING_MS, [], { ref: false })]);
		await server.close();
		if (running.length > 0) farewell(running, config.stopServices);
	}
	return 0;
}

/** Where the CLI on this machine finds the server. */
async function announce(file: string, url: string): Promise<void> {
	const temporary = `${file}.new`;
	await rm(temporary, { force: true });
	const handle = await open(temporary, "wx", 0o600);
	try {
		await handle.writeFile(`${JSON.stringify({ url, pid: process.pid })}\n`);
	} finally {
		await handle.close();
	}
	await rename(temporary, file);
}

function urlOf(config: Config, address: AddressInfo | string | null): string {
	const port = typeof address === "object" && address !== null ? address.port : config.port;
	const host = config.host.includes(":") ? `[${config.host}]` : config.host;
	return `${config.tlsCert === null ? "http" : "https"}://${host}:${port}`;
}

async function nameRunning(server: Server): Promise<string[]> {
	const running: string[] = [];
	for await (const service of server.store.all())
		if (statusOf(service) === "Running") running.push(`${service.name}:${service.version}  ${service.url ?? ""}`);
	return running;
}

function farewell(running: readonly string[], stopped: boolean): void {
	const shown = running.slice(0, 20).map((line) => `  ${line}\n`);
	if (running.length > shown.length) shown.push(`  and ${running.length - shown.length} more\n`);
	process.stderr.write(
		stopped
			? `Services were ended:\n${shown.join("")}`
			: `Services go on:\n${shown.join("")}To end them too: runtime server ${flagOf("stopServices")}, then Ctrl-C\n`,
	);
}

/** Resolves at the first and at the second signal that asks to end. */
function untilSignal(): { readonly first: Promise<void>; readonly second: Promise<void> } {
	const first = Promise.withResolvers<void>();
	const second = Promise.withResolvers<void>();
	let count = 0;
	for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"] as const)
		process.on(signal, () => {
			count++;
			if (count === 1) first.resolve();
			else if (signal !== "SIGHUP") second.resolve();
		});
	return { first: first.promise, second: second.promise };
}

/** What went wrong at the start, in words that help. */
async function explain(error: unknown, config: Config): Promise<[string, string | undefined]> {
	switch (systemCode(error)) {
		case "EADDRINUSE":
			return [
				`${config.host}:${config.port} is taken`,
				`Another runtime server? Else choose another with ${flagOf("address")} HOST:PORT.`,
			];
		case "EACCES":
		case "EPERM":
			return [messageOf(error), `Choose another folder with ${flagOf("dataDir")} FOLDER.`];
		case "ENOENT":
		case "ENOTDIR":
		case "EEXIST":
		case "EROFS":
			return [
				`${config.dataDir} cannot be used: ${messageOf(error)}`,
				`Choose another folder with ${flagOf("dataDir")} FOLDER.`,
			];
		case "ENOSPC":
			return ["the disk is full", "Free some space, then start again."];
	}
	if (isAppError(error, "conflict") && error.field !== "postgres") {
		const url = await readFile(path.join(config.dataDir, "server.json"), "utf8").then(
			(text) => String(JSON.parse(text).url),
			() => undefined,
		);
		return [
			`another server uses ${config.dataDir}${url === undefined ? "" : `, at ${url}`}`,
			`One server for each data folder: use that one, or choose another with ${flagOf("dataDir")} FOLDER.`,
		];
	}
	return [messageOf(error), isAppError(error) ? error.hint : undefined];
}

function complain(message: string, hint: string | undefined): void {
	process.stderr.write(`✘ ${message.replaceAll("\n", "\n✘ ")}\n${hint === undefined ? "" : `  ${hint}\n`}`);
}
