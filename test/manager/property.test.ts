import { createHash } from "node:crypto";
import { setImmediate as turn } from "node:timers/promises";
import fc from "fast-check";
import t from "tap";
import { isAppError, messageOf } from "../../src/errors.ts";
import type { RevisionErrorCode, RevisionRecord, ServiceRecord } from "../../src/manager/model.ts";
import { isLegal, isSettled } from "../../src/manager/transitions.ts";
import type { Outcome } from "../conformance/memory-runtime.ts";
import { type Logged, named, TestCore, until } from "../harness/core.ts";
import type { Fault } from "../harness/life.ts";

const never = { signal: new AbortController().signal };
const NAMES = ["a", "b"];
const TEXTS = ["one", "two", "!mistake", "slow"];

const verb = fc.record({
	kind: fc.constantFrom(
		...([
			"create",
			"create",
			"source",
			"source",
			"env",
			"put",
			"remove",
			"stop",
			"start",
			"restart",
			"cancel",
		] as const),
	),
	name: fc.constantFrom(...NAMES),
	text: fc.constantFrom(...TEXTS),
});
const world = fc.record({
	kind: fc.constantFrom(...(["turns", "turns", "crash", "release", "ready", "exit", "loop", "lose"] as const)),
	name: fc.constantFrom(...NAMES),
	turns: fc.nat({ max: 12 }),
});
type Step =
	| (typeof verb extends fc.Arbitrary<infer V> ? V : never)
	| (typeof world extends fc.Arbitrary<infer W> ? W : never);

const failure = { code: "exited" as const, message: "exited with code 1", exitCode: 1, lastLines: [] };
const outcomes = fc.array(
	fc.constantFrom<Outcome>(
		...([{ kind: "ready" }, { kind: "ready" }, { kind: "hang" }, { kind: "end" }, { kind: "fail", failure }] as const),
	),
	{ minLength: 1, maxLength: 8 },
);
const faults = fc.array(
	fc.oneof(
		{ weight: 24, arbitrary: fc.constant<Fault>("none") },
		{ weight: 2, arbitrary: fc.constantFrom<Fault>("fail_before", "fail_after") },
		{ weight: 1, arbitrary: fc.constantFrom<Fault>("die_before", "die_after") },
	),
	{ maxLength: 200, size: "max" },
);

type Acknowledged = { readonly id: string; readonly revision: number };

/** One run: a server that is used, hit and restarted; then the faults end. */
class Round {
	readonly core: TestCore;
	readonly #sources: ReadonlyMap<string, string>;
	readonly #faults: Fault[];
	readonly #acknowledged: Acknowledged[] = [];
	readonly #removed = new Set<string>();
	#gate = Promise.withResolvers<void>();

	constructor(core: TestCore, sources: ReadonlyMap<string, string>, faults: Fault[], outcomes: Outcome[]) {
		this.core = core;
		this.#sources = sources;
		this.#faults = faults;
		let applied = 0;
		core.runtime.outcome = () => outcomes[applied++ % outcomes.length] ?? { kind: "ready" };
		core.builder.gate = async (text) => (text === "slow" ? this.#gate.promise : undefined);
		core.life.fault = this.#next;
	}

	readonly #next = (): Fault => this.#faults.shift() ?? "none";

	async step(step: Step): Promise<void> {
		if ("text" in step) await this.#try(() => this.#verb(step.kind, step.name, step.text));
		else await this.#world(step.kind, step.name, step.turns);
		while (this.core.life.dead) await this.#revive();
	}

	/** No fault from now on: what hangs gets a verdict. Answers when nothing is wrong any more. */
	async settle(): Promise<void> {
		this.#faults.length = 0;
		this.core.runtime.outcome = () => ({ kind: "ready" });
		this.core.builder.gate = async () => undefined;
		this.#gate.resolve();
		let wrong: string[] = [];
		await until(
			async () => {
				// A death that was drawn before the faults ended may come late.
				while (this.core.life.dead) await this.#revive();
				await this.#verdicts();
				wrong = await this.#violations();
				return wrong.length === 0;
			},
			() => [...wrong, "last words:", ...this.core.logged.slice(-8).map(said)].join("\n"),
		);
		await this.core.crash();
		wrong = await this.#leftOver();
		if (wrong.length > 0) throw new Error(wrong.join("\n"));
	}

	/** Its death ends a call without an answer; a refusal is an answer. */
	async #try(action: () => Promise<void>): Promise<void> {
		try {
			await Promise.race([action(), this.core.life.died]);
		} catch (error) {
			if (!isAppError(error) || error.code === "internal") throw error;
		}
	}

	async #revive(): Promise<void> {
		this.core.bury();
		await this.#try(() =>
			this.core.begin(this.#next).catch((error: unknown) => {
				// It could not start: somebody starts it again.
				this.core.life.die();
				throw error;
			}),
		);
	}

	async #verb(kind: string, name: string, text: string): Promise<void> {
		const { manager } = this.core;
		const source = this.#sources.get(text) ?? "";
		const done = ({ id, newest }: ServiceRecord) => this.#acknowledged.push({ id, revision: newest });
		switch (kind) {
			case "create":
				done((await manager.create("default", { name, source })).service);
				return;
			case "source":
				done((await manager.update(named(name), { source })).service);
				return;
			case "env":
				done((await manager.update(named(name), { env: { TEXT: text } })).service);
				return;
			case "put":
				done((await manager.put(named(name), { source, args: [text] })).service);
				return;
			case "remove": {
				const service = await this.core.store.get(named(name));
				if (service !== undefined) this.#removed.add(service.id);
				await manager.remove(named(name));
				return;
			}
			case "stop":
				await manager.stop(named(name));
				return;
			case "start":
				await manager.start(named(name));
				return;
			case "restart":
				await manager.restart(named(name));
				return;
			default:
				await manager.cancel(named(name));
		}
	}

	async #world(kind: string, name: string, turns: number): Promise<void> {
		switch (kind) {
			case "crash":
				this.core.life.die();
				return;
			case "release":
				this.#gate.resolve();
				this.#gate = Promise.withResolvers();
				return;
			case "turns":
				for (let index = 0; index < turns; index++) await turn();
				return;
		}
		const service = await this.core.store.get(named(name));
		if (service === undefined) return;
		if (kind === "lose") {
			await this.core.runtime.remove(service, never);
			return;
		}
		const { revisions } = await this.core.runtime.observe(service, never);
		for (const { revision, phase } of revisions)
			if (kind === "ready" && phase === "starting") this.core.runtime.become(service.id, revision, "ready");
			else if (kind === "exit" && phase === "ready")
				this.core.runtime.become(service.id, revision, "starting", failure);
			else if (kind === "loop" && phase === "ready")
				this.core.runtime.become(service.id, revision, "failed", { ...failure, code: "crash_loop" });
	}

	/** A real runtime decides in time about everything that starts. */
	async #verdicts(): Promise<void> {
		for await (const service of this.core.store.all())
			for (const { revision, phase } of (await this.core.runtime.observe(service, never)).revisions)
				if (phase === "starting") this.core.runtime.become(service.id, revision, "ready");
	}

	async #violations(): Promise<string[]> {
		const wrong: string[] = [];
		const seen = new Set<string>();
		for await (const service of this.core.store.all()) {
			seen.add(service.id);
			const revisions = await this.#revisions(service, wrong);
			await this.#history(service, revisions, wrong);
			await this.#truth(service, wrong);
		}
		for (const { id, revision } of this.#acknowledged)
			if (!this.#removed.has(id) && (await this.core.store.revision(id, revision)) === undefined)
				wrong.push(`LOST revision ${revision} of ${id}`);
		for await (const { id } of this.core.runtime.list(never)) if (!seen.has(id)) wrong.push(`ORPHAN ${id} runs`);
		if (this.core.builder.active.length > 0) wrong.push(`BUILD ${this.core.builder.active} goes on`);
		return wrong;
	}

	async #revisions(service: ServiceRecord, wrong: string[]): Promise<RevisionRecord[]> {
		const revisions: RevisionRecord[] = [];
		for await (const revision of this.core.store.revisions(service.id, null)) revisions.unshift(revision);
		if (!revisions.every(({ revision }, index) => revision === index + 1) || revisions.length !== service.newest)
			wrong.push(`GAP in ${service.id}: ${revisions.map(({ revision }) => revision)} of ${service.newest}`);
		for (const { revision, status } of revisions)
			if (!isSettled(status)) wrong.push(`LIVE revision ${revision} of ${service.id} is ${status}`);
		if (service.desired === "removed") wrong.push(`LIVE ${service.id} is being removed`);
		return revisions;
	}

	async #history(service: ServiceRecord, revisions: readonly RevisionRecord[], wrong: string[]): Promise<void> {
		const last = new Map<number, { to: string; code: RevisionErrorCode | null }>();
		let seq = 0;
		for await (const event of this.core.store.events(service.id, 0)) {
			if (event.seq !== ++seq) wrong.push(`GAP before event ${event.seq} of ${service.id}`);
			const before = last.get(event.revision);
			if ((before?.to ?? null) !== event.from || !isLegal(event.from, event.to, before?.code ?? null))
				wrong.push(`LEGAL ${event.from} (${before?.to}) → ${event.to} of revision ${event.revision} of ${service.id}`);
			last.set(event.revision, { to: event.to, code: event.error?.code ?? null });
		}
		if (seq !== service.seq) wrong.push(`GAP ${seq} events of ${service.seq} in ${service.id}`);
		for (const { revision, status } of revisions)
			if (last.get(revision)?.to !== status)
				wrong.push(`LEGAL the last event of revision ${revision} is not ${status}`);
	}

	/** Running is what the runtime says is ready, with that revision's bytes and wish; and nothing else runs. */
	async #truth(service: ServiceRecord, wrong: string[]): Promise<void> {
		const observed = await this.core.runtime.observe(service, never);
		const at = service.url === null ? null : this.core.runtime.servedAt(service.url);
		const running = service.revisions.filter(({ status }) => status === "Running");
		if (running.length > 1) wrong.push(`TRUE ${running.length} revisions of ${service.id} are Running`);
		for (const record of running) {
			if (at?.revision !== record.revision || at.generation !== record.generation || service.live !== record.revision)
				wrong.push(`TRUE revision ${record.revision}.${record.generation} of ${service.id} does not serve`);
			const text = [...this.#sources].find(([, source]) => source === record.source)?.[0];
			const sha256 = createHash("sha256").update(`program: ${text}`).digest("hex");
			if (at?.program.kind !== "build" || at.program.sha256 !== sha256 || record.build?.sha256 !== sha256)
				wrong.push(`TRUE revision ${record.revision} of ${service.id} runs other bytes`);
			if (JSON.stringify(at?.env) !== JSON.stringify(record.env)) wrong.push(`TRUE ${service.id} has another env`);
		}
		for (const { revision, generation, phase } of observed.revisions)
			if (
				(phase === "ready" || phase === "starting") &&
				!running.some((record) => record.revision === revision && record.generation === generation)
			)
				wrong.push(`ORPHAN ${revision}.${generation} of ${service.id} is ${phase}`);
	}

	/** After a start of the server: bytes without an owner. */
	async #leftOver(): Promise<string[]> {
		const wrong: string[] = [];
		for (const full of await this.core.blobKeys()) {
			const [, kind, id = "", revision] = full.split("/");
			if (kind === "source" && (await this.core.store.getSource("default", id)) === undefined)
				wrong.push(`ORPHAN ${full}`);
			if (kind !== "build") continue;
			const record = await this.core.store.revision(id, Number(revision));
			if (record?.build?.revision !== Number(revision)) wrong.push(`ORPHAN ${full}`);
		}
		return wrong;
	}
}

function said({ message, details }: Logged): string {
	return "err" in details ? `${message}: ${messageOf(details.err)}` : message;
}

t.test("whatever is asked, fails or dies: legal, complete, true and settled in the end", async (t) => {
	let runs = 0;
	let deaths = 0;
	const end = Date.now() + 20_000;
	await fc.assert(
		fc.asyncProperty(
			fc.array(fc.oneof(verb, verb, world), { maxLength: 30, size: "max" }),
			outcomes,
			faults,
			async (steps, script, plan) => {
				const closing: (() => Promise<void>)[] = [];
				const core = await TestCore.open({ teardown: (action) => closing.push(action) }, { parallelBuilds: 2 });
				try {
					const sources = new Map<string, string>();
					for (const text of TEXTS) sources.set(text, await core.upload(text));
					const round = new Round(core, sources, [...plan], script);
					for (const step of steps) await round.step(step);
					await round.settle();
					runs++;
					deaths += plan.filter((fault) => fault.startsWith("die")).length;
				} finally {
					for (const close of closing) await close();
				}
			},
		),
		{ numRuns: 250, interruptAfterTimeLimit: Math.max(1, end - Date.now()), endOnFailure: false },
	);
	t.ok(runs >= 20 && deaths > 0, `${runs} runs, ${deaths} planned deaths`);
});
