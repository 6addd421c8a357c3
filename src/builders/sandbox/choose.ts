import { access, constants } from "node:fs/promises";
import { delimiter, isAbsolute, join } from "node:path";
import { AppError, messageOf } from "../../errors.ts";
import type { Call } from "../builder.ts";
import { Bubblewrap, type BubblewrapOptions } from "./bubblewrap.ts";
import { OpenSandbox } from "./open.ts";
import type { Sandbox } from "./sandbox.ts";

export type SandboxChoice = "auto" | "bubblewrap" | "none";

export type Chosen = AsyncDisposable & {
	readonly sandbox: Sandbox;
	/** There is none although it was not declined, and why. */
	readonly warning: string | undefined;
	/** What is weaker than it could be. */
	readonly note: string | undefined;
};

const COMMAND = "bwrap";
const INSTALL = "install bubblewrap (0.8 or newer), and let the server's user make user namespaces";

/** The sandbox that was asked for. `bubblewrap` rejects with `unavailable` where it does not work; `auto` does without. */
export async function chooseSandbox(
	choice: SandboxChoice,
	options: Omit<BubblewrapOptions, "file"> & { readonly path: string },
	call: Call,
): Promise<Chosen> {
	if (choice === "none") return open(undefined);
	let why: string;
	try {
		const file = await find(COMMAND, options.path);
		if (file !== undefined) return confined(await Bubblewrap.open({ ...options, file }, call));
		why = `there is no ${COMMAND} on the PATH`;
	} catch (error) {
		why = `${COMMAND} does not work here: ${messageOf(error)}`;
	}
	if (choice === "bubblewrap") throw new AppError("unavailable", `no sandbox for builds: ${why}`, { hint: INSTALL });
	return open(`builds run without a sandbox, with all that the server's user may do: ${why}. To have one, ${INSTALL}`);
}

function confined(sandbox: Bubblewrap): Chosen {
	const note = sandbox.grouped
		? undefined
		: "memory and processes of a build are limited for each process and user alone, as no control groups can be made here";
	return { sandbox, warning: undefined, note, [Symbol.asyncDispose]: () => sandbox.close() };
}

function open(warning: string | undefined): Chosen {
	return { sandbox: new OpenSandbox(), warning, note: undefined, [Symbol.asyncDispose]: async () => undefined };
}

async function find(command: string, path: string): Promise<string | undefined> {
	for (const folder of path.split(delimiter).filter(isAbsolute)) {
		const file = join(folder, command);
		const usable = await access(file, constants.X_OK).then(
			() => true,
			() => false,
		);
		if (usable) return file;
	}
	return undefined;
}
