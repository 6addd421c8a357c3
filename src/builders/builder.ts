import type { Call } from "../blob/store.ts";

export type { Call };

/** An uploaded or fetched source, ready to be built. Each form is made at most once, on first use. */
export interface SourceTree extends AsyncDisposable {
	/** `targz` for an uploaded archive. */
	readonly archiveType: "targz";
	/** The archive's bytes, as a remote builder is sent them. */
	archive(call: Call): Promise<AsyncIterable<Uint8Array>>;
	/**
	 * Absolute path of the unpacked tree; removed by disposal. Rejects with `invalid_argument` where the archive is broken
	 * or holds what is refused (see sources/unpack.ts); the message says which entry and why.
	 */
	directory(call: Call): Promise<string>;
}

export type BuildOptions = {
	/** Whose build it is; caches are shared within a namespace and never between two. */
	readonly namespace: string;
	/** Folder of the program inside the tree, relative, `/`-separated; `.` is the root. Already checked not to escape. */
	readonly entrypoint: string;
	/** Extra environment for the build alone. */
	readonly env: Readonly<Record<string, string>>;
	/** Where the build must run; from the runtime. Go's words: `linux`, `darwin`; `amd64`, `arm64`. */
	readonly target: { readonly os: string; readonly arch: string };
};

/** One line of a build's output, without its line end. */
export type BuildLog = (line: string) => void;

/** What must exist where the build runs. */
export type Requires = "none" | "node" | "python";

/** One executable file. Disposing it removes the builder's own copy. */
export interface Build extends AsyncDisposable {
	readonly body: AsyncIterable<Uint8Array>;
	/** Lower-case hex SHA-256 of the body, of a builder that knows it before: then the body is held to it. Whoever stores it hashes it. */
	readonly sha256?: string;
	/** Bytes. */
	readonly size: number;
	/** Name of the builder that made it. */
	readonly builder: string;
	readonly requires: Requires;
}

/** A compiler's complaint. `file` is relative to the source's root; line and column count from 1, 0 where unknown. */
export type Diagnostic = {
	readonly file: string;
	readonly line: number;
	readonly column: number;
	readonly message: string;
};

export type BuildErrorCode =
	/** The archive or its layout is at fault: broken gzip, no go.mod, entrypoint missing, no main package. */
	| "source_invalid"
	/** The compiler said no. */
	| "build_failed"
	/** The toolchain is missing or too old, the module proxy cannot be reached: not the source's fault. */
	| "unavailable";

/** A build that failed for a reason its owner can read. `message` is one sentence that says what to do. */
export class BuildError extends Error {
	override readonly name = "BuildError";
	readonly code: BuildErrorCode;
	readonly diagnostics: readonly Diagnostic[];
	readonly exitCode: number | undefined;
	/** True where the same source may well build later. */
	readonly retryable: boolean;

	constructor(
		code: BuildErrorCode,
		message: string,
		details: { diagnostics?: readonly Diagnostic[]; exitCode?: number; retryable?: boolean; cause?: unknown } = {},
	) {
		super(message, details.cause === undefined ? undefined : { cause: details.cause });
		this.code = code;
		this.diagnostics = details.diagnostics ?? [];
		this.exitCode = details.exitCode;
		this.retryable = details.retryable ?? code === "unavailable";
	}
}

/** Makes one executable file from a source. */
export interface Builder {
	/** `go`, `node`, … ; shown to people. */
	readonly name: string;
	/** Files whose presence in a folder says that this builder is for it: `["go.mod"]`. Named in errors. */
	readonly markers: readonly string[];
	/** Whether this builder is the one for `entrypoint` in `source`. Rejects as `source.directory` does. */
	detect(source: SourceTree, entrypoint: string, call: Call): Promise<boolean>;
	/**
	 * Builds. Rejects with BuildError, or with AppError `cancelled` once `signal` is aborted; by then every process of the
	 * build has ended and its temporary files are gone. `log` is called in order, while the build goes on.
	 * The same source and options give the same bytes.
	 */
	build(source: SourceTree, options: BuildOptions, call: Call & { readonly log: BuildLog }): Promise<Build>;
}
