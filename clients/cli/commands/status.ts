import { setTimeout as sleep } from "node:timers/promises";
import type { Api } from "../api.ts";
import type { Context, Input } from "../context.ts";
import { CliError, EXIT } from "../errors.ts";
import { ago, clip, printable, serviceWords, span } from "../format.ts";
import { missingService } from "../notices.ts";
import type { Service, ServiceError } from "../shapes.ts";
import { isTransient } from "../stream.ts";
import { table } from "../table.ts";

const HEADER = ["NAME", "VERSION", "STATUS", "URL", "SOURCE", "UPDATED"];
const EVERY = 1000;

export async function status(context: Context, { args, options }: Input): Promise<number> {
	const [name, version] = args;
	const api = await context.api();
	if (options.flag("watch")) return await watched(context, api, name, version);
	const services = await listed(api, name, version);
	if (name !== undefined && services.length === 0) throw await missingService(api, name, version ?? "latest");
	if (context.json) {
		context.printJson(services);
		return EXIT.ok;
	}
	if (services.length === 0) {
		context.say("No services yet.\n  Try:  runtime run .");
		return EXIT.ok;
	}
	for (const line of lines(services, context.stdout)) context.print(line);
	return EXIT.ok;
}

async function listed(api: Api, name: string | undefined, version: string | undefined): Promise<Service[]> {
	const services: Service[] = [];
	for await (const service of api.services({ name, version })) services.push(service);
	return services;
}

function lines(services: readonly Service[], output: { isTTY?: boolean; columns?: number }): string[] {
	const now = Date.now();
	// A program gets the reason in its service's own row, behind the columns that a person sees.
	const row = (service: Service) => [...cells(service, now), ...(output.isTTY ? [] : [reasonOf(service)])];
	const shown = table(HEADER, services.map(row), output);
	if (!output.isTTY) return shown;
	const errors = services.flatMap(errorLines).map((line) => clip(line, (output.columns || 200) * 3));
	return errors.length === 0 ? shown : [...shown, "", ...errors];
}

function cells(service: Service, now: number): string[] {
	const source = service.metadata.source ?? service.source;
	const url = service.status === "Running" && service.url !== null ? service.url : "-";
	const updated = ago(now - Date.parse(service.updatedAt));
	return [service.name, service.version, statusWords(service, now), url, printable(source), updated];
}

const ON_ITS_WAY: ReadonlySet<string> = new Set(["Pending", "Building", "Starting", "Stopping"]);

/** Errors that are somebody's wish. */
const WISHED: ReadonlySet<string> = new Set(["cancelled", "superseded"]);

/** `running`, or `cancelled` for an Error that somebody wished for: nothing is wrong then. */
export function stateWord({ status, error }: { readonly status: string; readonly error: ServiceError | null }): string {
	return status === "Error" && error !== null && WISHED.has(error.code) ? error.code : status.toLowerCase();
}

/** `running`, `building 4s`, `running r2, r3 error`, `running r2, r3 cancelled`. */
export function statusWords(service: Service, now: number): string {
	const word = stateWord(service);
	const { target } = service;
	if (target !== null) return `${word} r${service.revision}, r${target.revision} ${stateWord(target)}`;
	return ON_ITS_WAY.has(service.status) ? `${word} ${span(now - Date.parse(service.updatedAt))}` : word;
}

function errorLines(service: Service): string[] {
	const title = service.version === "latest" ? service.name : `${service.name}:${service.version}`;
	return reasons(service).map((reason) => `${title} ${reason}`);
}

/** `r3: build failed: main.go:12:6: undefined: fmt.Prinln`, or `-` where nothing failed. */
function reasonOf(service: Service): string {
	return reasons(service).join("; ") || "-";
}

function reasons({ revision, error, target }: Service): string[] {
	const found: string[] = [];
	if (error !== null) found.push(`r${revision}: ${errorWords(error)}`);
	if (target?.error) found.push(`r${target.revision}: ${errorWords(target.error)}`);
	return found;
}

/** `build failed: main.go:12:6: undefined: fmt.Prinln`. */
export function errorWords(error: ServiceError): string {
	const [first] = error.diagnostics;
	const position =
		first !== undefined && first.line > 0 ? `:${first.line}${first.column > 0 ? `:${first.column}` : ""}` : "";
	const detail = first === undefined ? error.message : `${first.file}${position}: ${first.message}`;
	return `${error.code.replaceAll("_", " ")}: ${printable(detail.replaceAll(/\s*\n\s*/g, " "))}`;
}

/** Drawn again each second on a terminal; in a pipe, the rows that changed. */
async function watched(
	context: Context,
	api: Api,
	name: string | undefined,
	version: string | undefined,
): Promise<number> {
	const { stdout } = context;
	const stop = new AbortController();
	const leave = () => stop.abort();
	for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.once(signal, leave);
	let drawn = 0;
	let seen = new Set<string>();
	if (stdout.isTTY) stdout.write("\x1b[?25l");
	try {
		while (!stop.signal.aborted) {
			const text = await snapshot(context, api, name, version);
			if (stdout.isTTY) {
				const fitting = text
					.flatMap((line) => line.split("\n"))
					.slice(0, (stdout.rows || 24) - 1)
					.map((line) => clip(line, (stdout.columns || 80) - 1));
				stdout.write(`${drawn > 0 ? `\x1b[${drawn}A\r\x1b[J` : ""}${fitting.join("\n")}\n`);
				drawn = fitting.length;
			} else {
				for (const line of text) if (!seen.has(line)) context.print(line);
				seen = new Set(text);
			}
			await sleep(EVERY, undefined, { signal: stop.signal }).catch(() => undefined);
		}
	} finally {
		if (stdout.isTTY) stdout.write("\x1b[?25h");
		for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.off(signal, leave);
	}
	return EXIT.cancelled;
}

async function snapshot(
	context: Context,
	api: Api,
	name: string | undefined,
	version: string | undefined,
): Promise<string[]> {
	try {
		const services = await listed(api, name, version);
		if (services.length > 0)
			return context.json ? services.map((service) => JSON.stringify(service)) : lines(services, context.stdout);
		return [name === undefined ? "No services yet." : `No service ${serviceWords(name, version ?? "latest")}.`];
	} catch (error) {
		if (error instanceof CliError && isTransient(error)) return [`${error.message}; trying again`];
		throw error;
	}
}
