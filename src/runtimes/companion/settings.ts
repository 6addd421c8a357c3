import type { Limits } from "../runtime.ts";

/** Which engine, and what only that one needs. */
export type EngineSettings =
	| { readonly kind: "process" }
	| {
			readonly kind: "docker";
			/** Path of the daemon's socket; null: the usual one. */
			readonly socket: string | null;
			/** For specs that have none. */
			readonly limits?: Limits;
			/** How a base image is made again that somebody removed; without it none is. */
			readonly images?: ImageSettings;
	  };

/** See `ImagesOptions` of the Docker runtime. */
export type ImageSettings = {
	/** The Go command, and the folder of what it compiled. */
	readonly go: string;
	readonly cache: string;
	/** The folder that says which images are this installation's. */
	readonly made: string;
	/** The operator's own. */
	readonly image: string | null;
	readonly imageNode: string | null;
};

/** What the server may set. Times are milliseconds. */
export type CompanionSettings = {
	/** What starts the programs. A companion keeps its kind for life. */
	readonly engine: EngineSettings;
	/** Address that services listen on. */
	readonly publicHost: string;
	/** Ports for services and programs, both inclusive; null: see `defaultRange`. */
	readonly ports: { readonly from: number; readonly to: number } | null;
	/** PATH of programs. */
	readonly path: string;
	readonly lang: string;
	readonly drainMs: number;
	/** From SIGTERM to SIGKILL. */
	readonly graceMs: number;
	readonly backoffFirstMs: number;
	readonly backoffMostMs: number;
	/** Up for so long, and the back-off begins anew. */
	readonly stableMs: number;
	/** How long a program with health `none` must live. */
	readonly aliveMs: number;
	/** Failed starts, before it was ever ready, that end a revision. */
	readonly failedStarts: number;
	readonly crashLoop: { readonly exits: number; readonly withinMs: number };
	/** Between two looks whether what is ready still listens. */
	readonly checkMs: number;
	/** Between two GETs of the health path of what is ready. */
	readonly askMs: number;
	/** The companion ends when nobody has needed it for so long. */
	readonly idleMs: number;
};

export const DEFAULT_SETTINGS: CompanionSettings = {
	engine: { kind: "process" },
	publicHost: "127.0.0.1",
	ports: null,
	path: "/usr/local/bin:/usr/bin:/bin",
	lang: "C.UTF-8",
	drainMs: 30_000,
	graceMs: 10_000,
	backoffFirstMs: 100,
	backoffMostMs: 60_000,
	stableMs: 60_000,
	aliveMs: 2_000,
	failedStarts: 3,
	crashLoop: { exits: 5, withinMs: 300_000 },
	checkMs: 2_000,
	askMs: 10_000,
	idleMs: 5_000,
};
