import { setTimeout as sleep } from "node:timers/promises";
import type { Api } from "../api.ts";
import type { Operation } from "../commands.gen.ts";
import { type Context, type Input, integer } from "../context.ts";
import { CliError, EXIT, isCliError } from "../errors.ts";
import { ago, printable, size } from "../format.ts";
import { missingService } from "../notices.ts";
import { type Service, toRevisions, toService, toSession } from "../shapes.ts";
import { columns, table } from "../table.ts";
import { errorWords, stateWord, statusWords } from "./status.ts";

const LONGEST_WAIT = 120_000;
const LARGEST = 1_000_000_000;

/** Runs an operation of the contract as its `x-cli` says. */
export async function generated(operation: Operation, context: Context, input: Input): Promise<number> {
	const api = await context.api();
	const { values, path, query, body } = requestOf(operation, input);
	const sent = operation.method === "GET" || Object.keys(body).length === 0 ? {} : { body };
	const answer = await api.call(operation.method, path, { query, ...sent }).catch(async (error: unknown) => {
		const name = values.get("name");
		throw isCliError(error, "not_found") && name !== undefined
			? await missingService(api, name, values.get("version") ?? "latest")
			: error;
	});
	if (operation.output === "service") return await service(operation, context, api, toService(answer.body), input);
	if (context.json) context.printJson(answer.body);
	else if (operation.output === "revisions") revisions(context, answer.body);
	else if (operation.output === "session") session(context, api, answer.body);
	else context.print(JSON.stringify(answer.body));
	return EXIT.ok;
}

type Values = Record<string, string | number>;

/** The request that a command line asks for. */
export function requestOf(
	operation: Operation,
	input: Input,
): { values: ReadonlyMap<string, string>; path: string; query: Values; body: Values } {
	const values = new Map<string, string>();
	const query: Values = {};
	const body: Values = {};
	for (const [index, argument] of operation.arguments.entries()) {
		const value = input.args[index] ?? (argument.name === "version" ? "latest" : "");
		values.set(argument.name, value);
		if (argument.in !== "body") continue;
		body[argument.name] = argument.type === "integer" ? integer(value, argument.name, 1, LARGEST) : value;
	}
	const path = operation.path.replace(/\{(\w+)\}/g, (_, name: string) => encodeURIComponent(values.get(name) ?? ""));
	for (const option of operation.options) {
		const flag = `--${option.flag}`;
		const value =
			option.type === "integer" ? input.options.integer(option.key, flag, 1, LARGEST) : input.options.text(option.key);
		if (value !== undefined) (option.in === "query" ? query : body)[option.name] = value;
	}
	return { values, path, query, body };
}

async function service(
	operation: Operation,
	context: Context,
	api: Api,
	first: Service,
	input: Input,
): Promise<number> {
	let latest: Service | undefined = first;
	const { wait } = operation;
	if (wait !== undefined && wait !== "verdict" && input.options.notNo("wait")) latest = await reached(api, first, wait);
	const final = latest ?? first;
	if (context.json) context.printJson(final);
	else if (operation.done === undefined) for (const line of details(final)) context.print(line);
	else {
		context.say(operation.done.replaceAll("{name}", final.name).replaceAll("{version}", final.version));
		if (wait === "Running" && final.url !== null) context.print(final.url);
	}
	return EXIT.ok;
}

type Awaited = Exclude<NonNullable<Operation["wait"]>, "verdict">;

/** Polls until the service is in that state; undefined once it is gone. */
async function reached(api: Api, first: Service, wait: Awaited): Promise<Service | undefined> {
	const until = Date.now() + LONGEST_WAIT;
	const title = `${first.name}:${first.version}`;
	for (let pause = 20; ; pause = Math.min(pause * 2, 1000)) {
		const now = await api.service(first.name, first.version).catch((error: unknown) => {
			if (isCliError(error, "not_found")) return undefined;
			throw error;
		});
		const gone = now === undefined || now.id !== first.id;
		if (wait === "gone" ? gone : !gone && now.status === wait) return gone ? undefined : now;
		if (gone) throw new CliError(`${title} was removed meanwhile`, { code: "not_found" });
		// Nothing runs any more, and a newer revision that failed is what is left to show.
		if (wait === "Stopped" && now.status === "Error" && now.error?.phase !== "stop") return now;
		if (wait !== "gone" && now.status === "Error") {
			throw new CliError(`${title}: ${now.error === null ? "it failed" : errorWords(now.error)}`, {
				code: now.error?.code ?? "internal",
			});
		}
		if (Date.now() > until) {
			throw new CliError(`${title} is still ${now.status.toLowerCase()}`, {
				exit: EXIT.pending,
				code: "pending",
				lines: [`See:  runtime status ${first.name}`],
			});
		}
		await sleep(pause);
	}
}

function details(service: Service): string[] {
	const now = Date.now();
	const rows: [string, string][] = [
		["name", service.name],
		["version", service.version],
		["status", statusWords(service, now)],
		["revision", String(service.revision)],
		["url", service.url ?? "-"],
		["source", service.metadata.source ?? service.source],
		["entrypoint", service.entrypoint],
		["args", service.args.length === 0 ? "-" : service.args.join(" ")],
		["env", service.env.length === 0 ? "-" : service.env.join(", ")],
		[
			"health",
			`${service.health.type}${service.health.type === "http" ? ` ${service.health.path}` : ""}, ${service.health.timeout}s`,
		],
		["restart", service.restart],
		["instances", String(service.instances)],
		[
			"build",
			service.build === null ? "-" : `${service.build.builder}, ${size(service.build.size)}, ${service.build.digest}`,
		],
		["namespace", service.namespace],
		["id", service.id],
		["created", ago(now - Date.parse(service.createdAt))],
		["updated", ago(now - Date.parse(service.updatedAt))],
	];
	if (service.error !== null) rows.push([`error r${service.revision}`, errorWords(service.error)]);
	if (service.target?.error) rows.push([`error r${service.target.revision}`, errorWords(service.target.error)]);
	return columns(
		rows.map(([label, value]) => [label, printable(value)]),
		undefined,
	);
}

function revisions(context: Context, body: unknown): void {
	const now = Date.now();
	const rows = toRevisions(body).map((revision) => [
		String(revision.revision),
		stateWord(revision),
		revision.build === null ? "-" : `${revision.build.builder}, ${size(revision.build.size)}`,
		ago(now - Date.parse(revision.createdAt)),
		revision.error === null ? "" : errorWords(revision.error),
	]);
	for (const line of table(["REVISION", "STATUS", "BUILD", "CREATED", "ERROR"], rows, context.stdout))
		context.print(line);
}

function session(context: Context, api: Api, body: unknown): void {
	const { account, namespace, server } = toSession(body);
	const builds = server.builders.map(({ name }) => name).join(", ") || "nothing";
	const rows = [
		["account", account],
		["namespace", namespace],
		["server", `${api.connection.label} (${server.version}, contract ${server.contract})`],
		["builds", builds],
		["largest source", size(server.maxSourceBytes)],
	];
	for (const line of columns(rows, undefined)) context.print(line);
}
