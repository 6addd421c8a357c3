export type Phase = "Upload" | "Build" | "Start";

export type Target = {
	readonly service: string;
	readonly server: string;
	readonly namespace: string;
	readonly account: string;
};

/**
 * What a deployment says on stderr while it goes on. One phase at a time is open: `begin`, then `done` or `fail`.
 * Texts hold no escape sequences of their own.
 */
export interface Screen {
	target(target: Target): void;
	/** A sentence that stays. */
	say(line: string): void;
	warn(line: string): void;
	begin(phase: Phase, detail: string, startedAt?: number): void;
	/** What the open phase is about, and how far (0 to 1) of a total of bytes it is where that is known. */
	update(detail: string, fraction?: number, total?: number): void;
	done(detail: string, ms: number): void;
	fail(detail: string, ms: number): void;
	/** A line of the build's log. */
	log(line: string): void;
	/** Which keys do something now; undefined: none. */
	keys(hint: string | undefined): void;
	/** Leaves the terminal as it was found. Nothing is drawn afterwards; `say` and `warn` still write. */
	close(): void;
}

export type Output = {
	readonly isTTY?: boolean;
	readonly columns?: number;
	readonly rows?: number;
	write(text: string): unknown;
	on?(event: "resize", listener: () => void): unknown;
	off?(event: "resize", listener: () => void): unknown;
};
