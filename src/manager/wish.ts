import type { Health, RestartPolicy } from "../runtimes/runtime.ts";
import { normaliseEntrypoint } from "../sources/entrypoint.ts";
import type { Wish } from "./model.ts";

/** What a create may say; only the name and the source must be there. */
export type CreateRequest = {
	readonly name: string;
	readonly version?: string;
	readonly source: string;
	readonly metadata?: Readonly<Record<string, string>>;
} & Partial<WishRequest>;

/** A merge patch: absent is kept, `null` removes an entry. */
export type UpdateRequest = {
	readonly source?: string;
	readonly metadata?: Readonly<Record<string, string | null>>;
	readonly env?: Readonly<Record<string, string | null>>;
} & Partial<Omit<WishRequest, "env">>;

type WishRequest = {
	readonly entrypoint: string;
	readonly args: readonly string[];
	readonly env: Readonly<Record<string, string>>;
	readonly health: Partial<Health>;
	readonly restart: RestartPolicy;
	readonly instances: number;
};

const DEFAULT_HEALTH: Health = { type: "port", path: "/", timeout: 60 };

/** The whole wish of a create. Rejects with `invalid_argument` naming the field. */
export function newWish(request: CreateRequest): Wish {
	return {
		source: request.source,
		entrypoint: normaliseEntrypoint(request.entrypoint ?? "."),
		args: request.args ?? [],
		env: request.env ?? {},
		health: { ...DEFAULT_HEALTH, ...request.health },
		restart: request.restart ?? "on-failure",
		instances: request.instances ?? 1,
	};
}

/** The wish after a patch. */
export function changedWish(wish: Wish, request: UpdateRequest): Wish {
	return {
		source: request.source ?? wish.source,
		entrypoint: request.entrypoint === undefined ? wish.entrypoint : normaliseEntrypoint(request.entrypoint),
		args: request.args ?? wish.args,
		env: merged(wish.env, request.env),
		health: { ...wish.health, ...request.health },
		restart: request.restart ?? wish.restart,
		instances: request.instances ?? wish.instances,
	};
}

/** Whether a patch asks for anything but metadata. */
export function changesRevision(request: UpdateRequest): boolean {
	return Object.entries(request).some(([field, value]) => field !== "metadata" && value !== undefined);
}

/** RFC 7396 for a flat map of strings. */
export function merged(
	old: Readonly<Record<string, string>>,
	patch: Readonly<Record<string, string | null>> | undefined,
): Record<string, string> {
	const result = new Map(Object.entries(old));
	for (const [key, value] of Object.entries(patch ?? {})) {
		if (value === null) result.delete(key);
		else result.set(key, value);
	}
	return Object.fromEntries(result);
}
