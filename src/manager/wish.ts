import { AppError } from "../errors.ts";
import type { Health, RestartPolicy } from "../runtimes/runtime.ts";
import { normaliseEntrypoint } from "../sources/entrypoint.ts";
import type { ChangeOptions } from "./changes.ts";
import type { RemoteState, ServiceName, WantedLimits, Wish } from "./model.ts";
import { remoteOf } from "./remote-sources.ts";

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
	readonly limits?: { readonly [K in keyof WantedLimits]?: number | null };
	readonly builder?: string | null;
} & Partial<Omit<WishRequest, "env" | "limits" | "builder">>;

type WishRequest = {
	readonly entrypoint: string;
	readonly args: readonly string[];
	readonly env: Readonly<Record<string, string>>;
	readonly health: Partial<Health>;
	readonly restart: RestartPolicy;
	readonly instances: number;
	readonly limits: WantedLimits;
	readonly builder: string;
};

const DEFAULT_HEALTH: Health = { type: "port", path: "/", timeout: 60 };

/** What a PUT of a service that does not exist creates. Rejects with `not_found` where it brings no source. */
export function createRequest(name: ServiceName, request: UpdateRequest, { guard }: ChangeOptions): CreateRequest {
	const { source, env, metadata, limits, builder, ...rest } = request;
	if (source === undefined)
		throw new AppError("not_found", `there is no service ${name.name}:${name.version}, and a new one needs a source`, {
			field: "source",
			hint: "Upload one with POST /sources, and send the key of its answer.",
		});
	if (guard !== undefined)
		throw new AppError("precondition_failed", `there is no ${name.name}:${name.version} to match`, {
			field: "If-Match",
		});
	return {
		...rest,
		...{ name: name.name, version: name.version, source },
		...{ env: merged({}, env), metadata: merged({}, metadata), limits: merged({}, limits) },
		...(builder === undefined || builder === null ? {} : { builder }),
	};
}

/** The whole wish of a create, and what is known of its remote. Rejects with `invalid_argument` naming the field. */
export function newWish(request: CreateRequest, remote: RemoteState | null): Wish {
	return {
		source: request.source,
		remote,
		entrypoint: normaliseEntrypoint(request.entrypoint ?? "."),
		args: request.args ?? [],
		env: request.env ?? {},
		health: { ...DEFAULT_HEALTH, ...request.health },
		restart: request.restart ?? "on-failure",
		instances: request.instances ?? 1,
		limits: request.limits ?? {},
		builder: request.builder ?? null,
	};
}

/** The wish after a patch; `remote` is of the patch's source, if it has one. */
export function changedWish(wish: Wish, request: UpdateRequest, remote: RemoteState | null): Wish {
	return {
		source: request.source ?? wish.source,
		remote: request.source === undefined ? keptRemote(wish, request) : remote,
		entrypoint: request.entrypoint === undefined ? wish.entrypoint : normaliseEntrypoint(request.entrypoint),
		args: request.args ?? wish.args,
		env: merged(wish.env, request.env),
		health: { ...wish.health, ...request.health },
		restart: request.restart ?? wish.restart,
		instances: request.instances ?? wish.instances,
		limits: merged(wish.limits ?? {}, request.limits),
		builder: request.builder === undefined ? (wish.builder ?? null) : request.builder,
	};
}

/** An entrypoint that is given later, before the remote is settled, counts as well. */
function keptRemote(wish: Wish, request: UpdateRequest): RemoteState | null {
	const remote = remoteOf(wish);
	if (remote?.state !== "deferred" || request.entrypoint === undefined) return remote;
	return { state: "deferred", entrypoint: "given" };
}

/** Whether a patch asks for anything but metadata. */
export function changesRevision(request: UpdateRequest): boolean {
	return Object.entries(request).some(([field, value]) => field !== "metadata" && value !== undefined);
}

/** RFC 7396 for a flat map. */
export function merged<T extends string | number>(
	old: Readonly<Record<string, T>>,
	patch: Readonly<Record<string, T | null | undefined>> | undefined,
): Record<string, T> {
	const result = new Map(Object.entries(old));
	for (const [key, value] of Object.entries(patch ?? {})) {
		if (value === null) result.delete(key);
		else if (value !== undefined) result.set(key, value);
	}
	return Object.fromEntries(result);
}
