import { createHash } from "node:crypto";
import { AppError, cancelled } from "../../src/errors.ts";
import type {
	Call,
	LogItem,
	LogLine,
	LogQuery,
	Observed,
	RevisionPhase,
	Runtime,
	RuntimeFailure,
	ServiceRef,
	ServiceSpec,
} from "../../src/runtimes/runtime.ts";

/** What becomes of a revision that is applied. `hang` stays `starting` until the test says otherwise. */
export type Outcome =
	| { readonly kind: "ready"; readonly output?: string }
	| { readonly kind: "end" }
	| { readonly kind: "hang" }
	| { readonly kind: "fail"; readonly failure: RuntimeFailure };

type Run = {
	readonly spec: ServiceSpec;
	readonly instance: string;
	phase: RevisionPhase;
	failure: RuntimeFailure | null;
};

type Held = {
	readonly ref: ServiceRef;
	readonly url: string;
	live: Run | null;
	target: Run | null;
	readonly lines: LogLine[];
};

/**
 * A runtime whose programs are a test's script. It passes the conformance suite. `outcome` decides by spec what becomes of
 * a revision, in the microtask after its apply; `become` moves one later.
 */
export class MemoryRuntime implements Runtime {
	readonly name = "memory";
	readonly target = { os: "linux", arch: "amd64" };
	trust: "one_namespace" | "many" = "many";
	/** Every call that came through, in order: `apply 1.1 service`. */
	readonly calls: string[] = [];
	outcome: (spec: ServiceSpec) => Outcome = () => ({ kind: "ready" });
	/** Set to make every call reject with it, as a runtime that cannot be reached does. */
	broken: AppError | null = null;
	/** Set to hold every call until it resolves. */
	hold: Promise<void> | null = null;
	readonly #services = new Map<string, Held>();
	readonly #listeners = new Set<(service: ServiceRef) => void>();
	readonly #now: () => Date;
	#count = 0;
	#closed = false;

	constructor(now: () => Date = () => new Date()) {
		this.#now = now;
	}

	async apply(spec: ServiceSpec, call: Call): Promise<void> {
		await this.#enter(call, `apply ${spec.revision}.${spec.generation} ${spec.id}`);
		const held = this.#services.get(spec.id);
		const same = (run: Run | null | undefined) =>
			run?.spec.revision === spec.revision && run.spec.generation === spec.generation;
		if (same(held?.live) || same(held?.target)) return;
		await verify(spec, call);
		const service = held ?? this.#create(spec);
		const run: Run = { spec, instance: `instance${++this.#count}`, phase: "starting", failure: null };
		service.target = run;
		this.#changed(service);
		queueMicrotask(() => this.#decide(service, run));
	}

	async abandon({ id }: ServiceRef, revision: number, call: Call): Promise<void> {
		await this.#enter(call, `abandon ${revision} ${id}`);
		const service = this.#services.get(id);
		if (service?.target?.spec.revision !== revision) return;
		service.target = null;
		this.#changed(service);
	}

	async observe({ id }: ServiceRef, call: Call): Promise<Observed> {
		await this.#enter(call);
		const service = this.#services.get(id);
		if (service === undefined) return { url: null, serving: null, revisions: [] };
		const runs = [service.live, service.target].filter((run) => run !== null);
		return {
			url: service.url,
			serving: service.live === null || isOver(service.live) ? null : service.live.spec.revision,
			revisions: runs
				.map(({ spec: { revision, generation }, phase, failure, instance }) => {
					const running = phase === "starting" || phase === "ready" || failure?.code === "crash_loop";
					const instances = running ? [{ instance, pid: null, ready: phase === "ready" }] : [];
					return { revision, generation, phase, failure, instances };
				})
				.sort((a, b) => a.revision - b.revision || a.generation - b.generation),
		};
	}

	async *changes({ signal }: Call): AsyncGenerator<ServiceRef> {
		const waiting = new Map<string, ServiceRef>();
		let wake = Promise.withResolvers<void>();
		const listener = (service: ServiceRef) => {
			waiting.set(service.id, service);
			wake.resolve();
		};
		const aborted = () => wake.resolve();
		this.#listeners.add(listener);
		signal.addEventListener("abort", aborted);
		try {
			for (;;) {
				if (signal.aborted) throw cancelled(signal);
				await wake.promise;
				wake = Promise.withResolvers<void>();
				const services = [...waiting.values()];
				waiting.clear();
				yield* services;
			}
		} finally {
			this.#listeners.delete(listener);
			signal.removeEventListener("abort", aborted);
		}
	}

	async *list(call: Call): AsyncGenerator<ServiceRef> {
		await this.#enter(call);
		for (const { ref } of this.#services.values()) yield ref;
	}

	async *logs({ id }: ServiceRef, query: LogQuery, call: Call): AsyncGenerator<LogItem> {
		await this.#enter(call);
		const all = (this.#services.get(id)?.lines ?? []).filter(
			({ seq, time }) => seq > (query.after ?? 0) && time >= (query.since ?? ""),
		);
		const past = query.tail === undefined ? all : query.tail === 0 ? [] : all.slice(-query.tail);
		for (const line of past) yield { line };
		let last = (past.at(-1) ?? all.at(-1))?.seq ?? query.after ?? 0;
		if (!query.follow) return;
		for await (const service of this.changes(call)) {
			if (service.id !== id) continue;
			for (const line of this.#services.get(id)?.lines ?? []) {
				if (line.seq <= last) continue;
				last = line.seq;
				yield { line };
			}
		}
	}

	async stop({ id }: ServiceRef, call: Call): Promise<void> {
		await this.#enter(call, `stop ${id}`);
		const service = this.#services.get(id);
		if (service === undefined) return;
		service.live = null;
		service.target = null;
		this.#changed(service);
	}

	async remove({ id }: ServiceRef, call: Call): Promise<void> {
		await this.#enter(call, `remove ${id}`);
		const service = this.#services.get(id);
		this.#services.delete(id);
		if (service !== undefined) this.#changed(service);
	}

	async [Symbol.asyncDispose](): Promise<void> {
		this.#closed = true;
	}

	/** The test says what a revision is now: `ready` switches to it, as a runtime would. */
	become(id: string, revision: number, phase: RevisionPhase, failure: RuntimeFailure | null = null): void {
		const service = this.#services.get(id);
		const run = [service?.target, service?.live].find((one) => one?.spec.revision === revision);
		if (service === undefined || run === undefined || run === null) throw new Error(`no revision ${revision} of ${id}`);
		this.#move(service, run, phase, failure);
	}

	/** A line of output of the newest revision. */
	print(id: string, text: string): void {
		const service = this.#services.get(id);
		const run = service?.target ?? service?.live;
		if (service === undefined || run === undefined || run === null) throw new Error(`nothing of ${id} runs`);
		const { instance, spec } = run;
		const seq = service.lines.length + 1;
		const time = this.#now().toISOString();
		service.lines.push({ seq, time, revision: spec.revision, instance, stream: "stdout", text });
		this.#changed(service);
	}

	/** What a request to this address would meet: the spec that serves, or null (503). */
	servedAt(url: string): ServiceSpec | null {
		const service = [...this.#services.values()].find((one) => one.url === url);
		return service?.live?.phase === "ready" ? service.live.spec : null;
	}

	async #enter({ signal }: Call, call?: string): Promise<void> {
		await this.hold;
		if (signal.aborted) throw cancelled(signal);
		if (this.#closed) throw new AppError("unavailable", "the runtime is closed");
		if (this.broken !== null) throw this.broken;
		if (call !== undefined) this.calls.push(call);
	}

	#create({ id, namespace, name, version }: ServiceSpec): Held {
		const url = `http://127.0.0.1:${20_000 + ++this.#count}`;
		const held: Held = { ref: { id, namespace, name, version }, url, live: null, target: null, lines: [] };
		this.#services.set(id, held);
		return held;
	}

	#decide(service: Held, run: Run): void {
		if (service.target !== run) return;
		const outcome = this.outcome(run.spec);
		switch (outcome.kind) {
			case "hang":
				return;
			case "ready":
				if (outcome.output !== undefined) this.print(service.ref.id, outcome.output);
				this.#move(service, run, "ready", null);
				return;
			case "fail":
				this.#move(service, run, "failed", outcome.failure);
				return;
			case "end": {
				const message = "the program exited with code 0 before it was ready";
				const failure: RuntimeFailure = { code: "exited", message, exitCode: 0, lastLines: [] };
				if (service.live === null || isOver(service.live)) this.#move(service, run, "ended", null);
				else this.#move(service, run, "failed", failure);
			}
		}
	}

	#move(service: Held, run: Run, phase: RevisionPhase, failure: RuntimeFailure | null): void {
		run.phase = phase;
		run.failure = failure;
		if (service.target === run && (phase === "ready" || phase === "ended")) {
			service.live = run;
			service.target = null;
		}
		this.#changed(service);
	}

	#changed({ ref }: Held): void {
		for (const listener of this.#listeners) listener(ref);
	}
}

function isOver({ phase, failure }: Run): boolean {
	return phase === "ended" || (phase === "failed" && failure?.code !== "crash_loop");
}

async function verify({ program }: ServiceSpec, call: Call): Promise<void> {
	if (program.kind !== "build") return;
	const hash = createHash("sha256");
	for await (const chunk of await program.open(call)) hash.update(chunk);
	if (hash.digest("hex") !== program.sha256) throw new AppError("damaged", "the bytes are not the build's");
}
