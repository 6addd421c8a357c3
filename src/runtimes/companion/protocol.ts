import type { ErrorCode } from "../../errors.ts";
import type { Observed } from "../runtime.ts";
import type { Engine } from "./engine.ts";
import type { CompanionSettings } from "./settings.ts";
import type { SpecRecord } from "./state-file.ts";

/** What this version speaks, and the oldest that it still understands. */
export const PROTOCOL = 3;
export const OLDEST_PROTOCOL = 2;

/** What a server can ask of a companion: a POST to `/<name>` with the request as JSON, answered by an Answer. */
export type Operations = {
	hello: { request: { protocol: number; settings: Partial<CompanionSettings> }; answer: Hello };
	apply: { request: SpecRecord; answer: null };
	abandon: { request: { id: string; revision: number }; answer: null };
	observe: { request: { id: string }; answer: Observed };
	stop: { request: { id: string }; answer: null };
	remove: { request: { id: string }; answer: null };
	stopAll: { request: null; answer: null };
	/** Stop listening, leave the programs, end: another companion takes over. */
	handOver: { request: null; answer: null };
};

export type Operation = keyof Operations;

export type Hello = {
	readonly protocol: number;
	readonly oldest: number;
	readonly pid: number;
	/** What starts its programs. */
	readonly engine: Engine["kind"];
	/** Where it found its engine, of a kind that has a socket; null: at the usual one. An older companion does not say. */
	readonly socket?: string | null;
};

export type Answer<T> =
	| { readonly ok: T }
	| {
			readonly error: {
				readonly code: ErrorCode;
				readonly message: string;
				readonly hint?: string;
				readonly field?: string;
			};
	  };

/** `POST /changes` answers without end: a service a line, and an empty line as a sign of life. */
export const CHANGES = "changes";

/** `POST /services` with `after` as JSON: the services whose id sorts after that, by id, one a line. */
export const SERVICES = "services";

/** A request that is larger is refused: the largest is a spec with its environment. */
export const MAX_REQUEST_BYTES = 16 * 1024 * 1024;
