import { setTimeout as delay } from "node:timers/promises";
import { BuildError, type BuildLog } from "../../builder.ts";
import { LineSplitter } from "../../lines.ts";
import type { Group } from "../cgroups.ts";
import type { Limited } from "../limits.ts";
import type { StartedContainer } from "./engine.ts";

const DEFAULT_OUTPUT_LIMIT = 8 * 1024 ** 2;
/** How long the rest of the output is waited for once the command has ended. */
const LAST_WORDS_MS = 10_000;
const LONGEST_WORD = 64;

/**
 * The container's first process. It starts the command, whose output is stdout, and says on stderr how it ended and which
 * limit was met. With each line that the server sends it looks at the limits; when there are no more lines (the command has
 * ended, or the server has) it ends, and with it all processes of the container. It uses what a shell has built in: by then
 * there may be no process left to be had. `jobs` reaps the orphans that became its children. The number of open files is its
 * affair because an engine must not ask for more than it has itself.
 */
const SCRIPT = `
for name in $1; do unset "$name"; done
shift
exec 3>&2 2>/dev/null
ulimit -n 65536
( echo 500 >/proc/self/oom_score_adj; "$@" </dev/null 2>&1 3>&-; echo "ended $?" >&3 ) &
child=$!
memory=/dev/null
for file in /sys/fs/cgroup/memory/memory.oom_control /sys/fs/cgroup/memory.events; do [ ! -r $file ] || memory=$file; done
pids=/dev/null
for file in /sys/fs/cgroup/pids/pids.events /sys/fs/cgroup/pids.events; do [ ! -r $file ] || pids=$file; done
look() {
	while read -r name count; do [ "$name" != oom_kill ] || [ "$count" = 0 ] || echo memory >&3; done <$memory
	while read -r name count; do [ "$name" != max ] || [ "$count" = 0 ] || echo processes >&3; done <$pids
}
while read -r _; do
	jobs >/dev/null
	look
	kill -0 $child || break
done
look
kill -0 $child || echo "ended 137" >&3
`;

/** The command of a container that runs `words` without the variables in `unset`. */
export function firstProcess(words: readonly string[], unset: readonly string[]): string[] {
	return ["/bin/sh", "-c", SCRIPT, "sh", unset.join(" "), ...words];
}

/** The server's side of it. */
export class Conversation implements Pick<Group, "exceeded"> {
	readonly #container: StartedContainer;
	readonly #lines: LineSplitter;
	#exceeded: Limited | undefined;
	#exitCode: number | undefined;
	#word = "";

	constructor(container: StartedContainer, log: BuildLog, outputLimit = DEFAULT_OUTPUT_LIMIT) {
		this.#container = container;
		this.#lines = new LineSplitter(log, outputLimit);
	}

	/** What was said so far; and asks for more. */
	async exceeded(): Promise<Limited | undefined> {
		const { input } = this.#container;
		if (input.writable) input.write("\n");
		return this.#exceeded;
	}

	/**
	 * The exit code, when all output is there; as soon as `signal` is aborted the container is removed, and it is that of
	 * SIGKILL. Rejects with `unavailable` where the container ended before its command: that was not the command's doing.
	 */
	async ended(signal: AbortSignal): Promise<number> {
		const kill = () => void this.#container.remove().catch(() => undefined);
		signal.addEventListener("abort", kill, { once: true });
		if (signal.aborted) kill();
		const late = new AbortController();
		try {
			await this.#read(late.signal);
		} catch (error) {
			if (!signal.aborted) throw error;
		} finally {
			late.abort();
			signal.removeEventListener("abort", kill);
		}
		this.#lines.end();
		if (this.#exitCode !== undefined) return this.#exitCode;
		if (signal.aborted || this.#exceeded !== undefined) return 137;
		throw new BuildError("unavailable", "the container that builds was ended from outside; try again");
	}

	async #read(late: AbortSignal): Promise<void> {
		for await (const { stream, bytes } of this.#container.output) {
			if (stream === "stdout") this.#lines.write(bytes);
			else if (this.#hear(bytes)) {
				this.#container.input.end();
				// What keeps the output open is a process that hangs in the kernel.
				delay(LAST_WORDS_MS, undefined, { signal: late }).then(
					() => this.#container.remove().catch(() => undefined),
					() => undefined,
				);
			}
		}
	}

	/** True once: when it says that the command has ended. */
	#hear(bytes: Buffer): boolean {
		const words = (this.#word + bytes.toString("latin1")).split("\n");
		this.#word = (words.pop() ?? "").slice(-LONGEST_WORD);
		const before = this.#exitCode;
		for (const word of words) {
			if (word === "memory" || word === "processes") this.#exceeded ??= word;
			const code = /^ended (\d{1,3})$/.exec(word)?.[1];
			if (code !== undefined) this.#exitCode ??= Number(code);
		}
		return before === undefined && this.#exitCode !== undefined;
	}
}
