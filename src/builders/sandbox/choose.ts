import { access, constants } from "node:fs/promises";
import { delimiter, isAbsolute, join } from "node:path";
import { AppError, messageOf } from "../../errors.ts";
import type { Call } from "../builder.ts";
import { Bubblewrap, type BubblewrapOptions } from "./bubblewrap.ts";
import { ContainerSandbox, type ContainerSandboxOptions } from "./container/container.ts";
import { OpenSandbox } from "./open.ts";
import type { Sandbox } from "./sandbox.ts";

export type SandboxChoice = "auto" | "bubblewrap" | "container" | "none";

export type Chosen = AsyncDisposable & {
	readonly sandbox: Sandbox;
	/** There is none although it was not declined, and why. */
	readonly warning: string | undefined;
	/** What is weaker or slower than it could be. */
	readonly note: string | undefined;
};

export type SandboxOptions = Omit<BubblewrapOptions, "file"> & {
	readonly path: string;
	/** Where Docker is the runtime. */
	readonly containers?: Pick<ContainerSandboxOptions, "engine" | "owner"> | undefined;
};

const COMMAND = "bwrap";
const INSTALL = "install bubblewrap (0.8 or newer), and let the server's user make user namespaces";
const START_ENGINE = "start dockerd, keep the data folder where its containers can see it, or take another --sandbox";

/**
 * The sandbox that was asked for. One that was asked for by name rejects with `unavailable` where it does not work; `auto` is
 * bubblewrap, else containers, else none.
 */
export async function chooseSandbox(choice: SandboxChoice, options: SandboxOptions, call: Call): Promise<Chosen> {
	if (choice === "none") return open(undefined);
	const whyNot: string[] = [];
	if (choice !== "container")
		try {
			const file = await find(COMMAND, options.path);
			if (file !== undefined) return confined(await Bubblewrap.open({ ...options, file }, call));
			whyNot.push(`there is no ${COMMAND} on the PATH`);
		} catch (error) {
			whyNot.push(`${COMMAND} does not work here: ${messageOf(error)}`);
		}
	if (choice === "bubblewrap") throw none(whyNot, INSTALL);
	if (options.containers !== undefined)
		try {
			const sandbox = await ContainerSandbox.open({ ...options, ...options.containers }, call);
			return contained(sandbox, whyNot[0]);
		} catch (error) {
			whyNot.push(`containers do not work for builds here: ${messageOf(error)}`);
		}
	else if (choice === "container") whyNot.push("the runtime is not Docker");
	if (choice === "container") throw none(whyNot, START_ENGINE);
	return open(
		`builds run without a sandbox, with all that the server's user may do: ${whyNot.join("; ")}. To have one, ${INSTALL}`,
	);
}

function none(whyNot: readonly string[], hint: string): AppError {
	return new AppError("unavailable", `no sandbox for builds: ${whyNot.join("; ")}`, { field: "sandbox", hint });
}

function contained(sandbox: ContainerSandbox, whyNot: string | undefined): Chosen {
	const note = whyNot === undefined ? undefined : `builds run in containers, which takes longer: ${whyNot}`;
	return { sandbox, warning: undefined, note, [Symbol.asyncDispose]: () => sandbox.close() };
}

function confined(sandbox: Bubblewrap): Chosen {
	return { sandbox, warning: undefined, note: sandbox.note, [Symbol.asyncDispose]: () => sandbox.close() };
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
