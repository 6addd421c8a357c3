import type { components } from "../../src/contract/types.gen.ts";
import { CliError, EXIT, type Problem } from "./errors.ts";

type Schemas = components["schemas"];
export type Service = Schemas["Service"];
export type Revision = Schemas["Revision"];
export type Status = Schemas["Status"];
export type ServiceError = Schemas["Error"];
export type Session = Schemas["Session"];
export type Source = Schemas["Source"];
export type Event = Schemas["Event"];
export type LogItem = Schemas["LogItem"];
export type EventItem = Schemas["EventItem"];
export type BuildLogItem = Schemas["BuildLogItem"];
export type StreamItem = LogItem | EventItem | BuildLogItem;
export type ServicePage = { services: Service[]; nextCursor?: string };

// An answer is trusted to be of the contract once the fields that decide something are there: the server's tests check
// the rest, and a newer server may add what we do not know.

export function isRecord(value: unknown): value is Record<string, unknown> {
	return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isService(value: unknown): value is Service {
	return (
		isRecord(value) &&
		typeof value.name === "string" &&
		typeof value.version === "string" &&
		typeof value.status === "string" &&
		typeof value.revision === "number"
	);
}

function isRevision(value: unknown): value is Revision {
	return isRecord(value) && typeof value.revision === "number" && typeof value.status === "string";
}

function isSession(value: unknown): value is Session {
	return (
		isRecord(value) &&
		typeof value.account === "string" &&
		typeof value.namespace === "string" &&
		isRecord(value.server) &&
		Array.isArray(value.server.builders)
	);
}

function isSource(value: unknown): value is Source {
	return isRecord(value) && typeof value.source === "string" && typeof value.digest === "string";
}

export function isProblem(value: unknown): value is Problem {
	return isRecord(value) && typeof value.code === "string" && typeof value.detail === "string";
}

export function isStreamItem(value: unknown): value is StreamItem {
	return isRecord(value) && typeof value.type === "string";
}

function checked<T>(value: unknown, what: string, is: (value: unknown) => value is T): T {
	if (is(value)) return value;
	throw new CliError(
		`The server's answer is not the ${what} that was expected; is it another version, or no runtime server?`,
		{
			exit: EXIT.unreachable,
			code: "bad_answer",
		},
	);
}

export const toService = (value: unknown): Service => checked(value, "service", isService);
export const toSession = (value: unknown): Session => checked(value, "session", isSession);
export const toSource = (value: unknown): Source => checked(value, "source", isSource);

export function toServicePage(value: unknown): ServicePage {
	const services = isRecord(value) && Array.isArray(value.services) ? value.services.map(toService) : undefined;
	if (services === undefined) return checked(undefined, "list of services", (_): _ is ServicePage => false);
	const next = isRecord(value) && typeof value.nextCursor === "string" ? { nextCursor: value.nextCursor } : {};
	return { services, ...next };
}

export function toRevisions(value: unknown): Revision[] {
	const list = isRecord(value) && Array.isArray(value.revisions) ? value.revisions : [undefined];
	return list.map((entry: unknown) => checked(entry, "list of revisions", isRevision));
}

/** The revision that a service is on its way to, or has. */
export function newestRevision(service: Service): number {
	return service.target?.revision ?? service.revision;
}
