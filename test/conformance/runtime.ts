import { setTimeout as sleep } from "node:timers/promises";
import type { Test } from "tap";
import { isAppError } from "../../src/errors.ts";
import type { Observed, Runtime, ServiceRef, ServiceSpec } from "../../src/runtimes/runtime.ts";

/** What a program does: answers until it is told to end; ends with 3; ends with 0; runs and never listens. */
export type Behaviour = "serve" | "exit3" | "exit0" | "hang";

export type RuntimeHarness = {
	readonly runtime: Runtime;
	/** A spec whose program behaves so. `serve` prints `serving <revision>`, `exit3` prints `failing`. */
	spec(service: ServiceRef, revision: number, behaviour: Behaviour, change?: Partial<ServiceSpec>): ServiceSpec;
	/** The body that the service's address answers with (`revision <n>` from `serve`), null where it answers no 200. */
	ask(url: string): Promise<string | null>;
	close(): Promise<void>;
};

const LIMIT_MS = 60_000;

/** Looks again until `check` is true of what it sees. */
export async function until<T>(look: () => Promise<T> | T, check: (seen: T) => boolean, what: string): Promise<T> {
	const deadline = Date.now() + LIMIT_MS;
	for (;;) {
		const seen = await look();
		if (check(seen)) return seen;
		if (Date.now() > deadline) throw new Error(`not in time: ${what}; last seen: ${JSON.stringify(seen)}`);
		await sleep(10);
	}
}

export function phaseOf(observed: Observed, revision: number, generation = 1): string | undefined {
	return observed.revisions.find((seen) => seen.revision === revision && seen.generation === generation)?.phase;
}

/** What every runtime keeps. `open` gives a runtime that runs nothing yet. */
export function runtimeSuite(t: Test, open: (t: Test) => Promise<RuntimeHarness>): void {
	const { signal } = new AbortController();
	const call = { signal };
	let count = 0;
	const newService = (): ServiceRef => {
		count++;
		return { id: `service${count}`, namespace: "default", name: `name${count}`, version: "latest" };
	};
	const show = (name: string, body: (t: Test, harness: RuntimeHarness, service: ServiceRef) => Promise<void>) =>
		t.test(name, async (t) => {
			const harness = await open(t);
			try {
				await body(t, harness, newService());
			} finally {
				await harness.close();
			}
		});
	const reach = ({ runtime }: RuntimeHarness, service: ServiceRef, revision: number, phase: string, generation = 1) =>
		until(
			() => runtime.observe(service, call),
			(seen) => phaseOf(seen, revision, generation) === phase,
			`revision ${revision} is ${phase}`,
		);

	show(
		"a service that it does not know has no revisions, and can be stopped and removed",
		async (t, { runtime }, service) => {
			t.same((await runtime.observe(service, call)).revisions, []);
			await runtime.abandon(service, 1, call);
			await runtime.stop(service, call);
			await runtime.remove(service, call);
			for await (const _ of runtime.logs(service, { follow: false }, call)) t.fail("a line of nobody");
		},
	);

	show("a program becomes ready, answers at the service's address and is listed", async (t, harness, service) => {
		const { runtime } = harness;
		await runtime.apply(harness.spec(service, 1, "serve"), call);
		const seen = await reach(harness, service, 1, "ready");
		t.equal(seen.serving, 1);
		t.equal(seen.revisions[0]?.instances[0]?.ready, true);
		t.equal(await harness.ask(seen.url ?? ""), "revision 1");
		const listed: string[] = [];
		for await (const { id } of runtime.list(call)) listed.push(id);
		t.same(listed, [service.id]);
		const before = seen.revisions[0]?.instances[0];
		await runtime.apply(harness.spec(service, 1, "serve"), call);
		t.same((await runtime.observe(service, call)).revisions[0]?.instances[0], before, "the same spec is a no-op");
	});

	show("an update keeps the address and leaves only the new revision", async (t, harness, service) => {
		await harness.runtime.apply(harness.spec(service, 1, "serve"), call);
		const { url } = await reach(harness, service, 1, "ready");
		await harness.runtime.apply(harness.spec(service, 2, "serve"), call);
		await reach(harness, service, 2, "ready");
		const seen = await until(
			() => harness.runtime.observe(service, call),
			({ revisions, serving }) => revisions.length === 1 && serving === 2,
			"only revision 2 is left",
		);
		t.equal(seen.url, url);
		t.equal(await harness.ask(url ?? ""), "revision 2");
	});

	show("a new generation of the same revision is rolled over", async (t, harness, service) => {
		await harness.runtime.apply(harness.spec(service, 1, "serve"), call);
		const first = await reach(harness, service, 1, "ready");
		await harness.runtime.apply(harness.spec(service, 1, "serve", { generation: 2 }), call);
		const second = await reach(harness, service, 1, "ready", 2);
		const of = (seen: Observed, generation: number) =>
			seen.revisions.find((one) => one.generation === generation)?.instances[0]?.instance;
		t.not(of(second, 2), of(first, 1));
		t.equal(second.url, first.url);
	});

	show("a revision that fails says why, and what serves goes on", async (t, harness, service) => {
		await harness.runtime.apply(harness.spec(service, 1, "serve"), call);
		await reach(harness, service, 1, "ready");
		await harness.runtime.apply(harness.spec(service, 2, "exit3"), call);
		const seen = await reach(harness, service, 2, "failed");
		const failed = seen.revisions.find(({ revision }) => revision === 2);
		t.match(failed?.failure, { code: "exited", exitCode: 3, lastLines: ["failing"] });
		t.equal(seen.serving, 1);
		t.equal(await harness.ask(seen.url ?? ""), "revision 1");
		await harness.runtime.apply(harness.spec(service, 3, "exit0"), call);
		const third = await reach(harness, service, 3, "failed");
		t.match(third.revisions.find(({ revision }) => revision === 3)?.failure, { code: "exited", exitCode: 0 });
		t.equal(third.serving, 1);
	});

	show("a program that ends with 0 has ended, where nothing else serves", async (t, harness, service) => {
		await harness.runtime.apply(harness.spec(service, 1, "exit0"), call);
		const seen = await reach(harness, service, 1, "ended");
		t.equal(seen.serving, null);
		t.equal(seen.revisions[0]?.failure, null);
	});

	show("nothing listening in time is not_listening", async (t, harness, service) => {
		const health = { type: "port", path: "/", timeout: 1 } as const;
		await harness.runtime.apply(harness.spec(service, 1, "hang", { health }), call);
		const seen = await reach(harness, service, 1, "failed");
		t.match(seen.revisions[0]?.failure, { code: "not_listening", message: /\$PORT/ });
	});

	show("abandon ends a start and leaves what serves; a newer apply replaces one", async (t, harness, service) => {
		const { runtime } = harness;
		await runtime.apply(harness.spec(service, 1, "serve"), call);
		await reach(harness, service, 1, "ready");
		await runtime.apply(harness.spec(service, 2, "hang"), call);
		await runtime.abandon(service, 2, call);
		const after = await runtime.observe(service, call);
		t.same([phaseOf(after, 1), phaseOf(after, 2)], ["ready", undefined]);
		await runtime.apply(harness.spec(service, 3, "hang"), call);
		await runtime.apply(harness.spec(service, 4, "serve"), call);
		await reach(harness, service, 4, "ready");
		await until(
			() => runtime.observe(service, call),
			(seen) => seen.revisions.map(({ revision }) => revision).join() === "4",
			"only revision 4 is left",
		);
	});

	show("stop keeps address and logs, and a start afterwards has the address again", async (t, harness, service) => {
		const { runtime } = harness;
		await runtime.apply(harness.spec(service, 1, "serve"), call);
		const { url } = await reach(harness, service, 1, "ready");
		await runtime.stop(service, call);
		t.same(await runtime.observe(service, call), { url, serving: null, revisions: [] });
		t.equal(await harness.ask(url ?? ""), null);
		const texts: string[] = [];
		for await (const item of runtime.logs(service, { follow: false }, call))
			if ("line" in item) texts.push(item.line.text);
		t.same(texts, ["serving 1"]);
		await runtime.apply(harness.spec(service, 1, "serve", { generation: 2 }), call);
		t.equal((await reach(harness, service, 1, "ready", 2)).url, url);
	});

	show("remove forgets everything", async (t, harness, service) => {
		const { runtime } = harness;
		await runtime.apply(harness.spec(service, 1, "serve"), call);
		const { url } = await reach(harness, service, 1, "ready");
		await runtime.remove(service, call);
		t.same(await runtime.observe(service, call), { url: null, serving: null, revisions: [] });
		for await (const _ of runtime.list(call)) t.fail("it is still listed");
		for await (const _ of runtime.logs(service, { follow: false }, call)) t.fail("its logs are still there");
		t.equal(await harness.ask(url ?? ""), null);
	});

	show("changes yields a service when its phase does, and ends when aborted", async (t, harness, service) => {
		const stop = new AbortController();
		const seen = (async () => {
			for await (const { id } of harness.runtime.changes({ signal: stop.signal })) {
				t.equal(id, service.id);
				const observed = await harness.runtime.observe(service, call);
				if (phaseOf(observed, 1) === "ready") return;
			}
		})();
		await harness.runtime.apply(harness.spec(service, 1, "serve"), call);
		await seen;
		const waiting = harness.runtime.changes({ signal: stop.signal })[Symbol.asyncIterator]();
		const next = (async () => {
			for (;;) await waiting.next();
		})();
		stop.abort();
		await t.rejects(next, { code: "cancelled" });
	});

	show("an aborted call rejects with cancelled", async (t, harness, service) => {
		const aborted = { signal: AbortSignal.abort() };
		await t.rejects(harness.runtime.apply(harness.spec(service, 1, "serve"), aborted), { code: "cancelled" });
		await t.rejects(harness.runtime.observe(service, aborted), { code: "cancelled" });
	});

	show("bytes that are not the build's are refused", async (t, harness, service) => {
		const { program } = harness.spec(service, 1, "serve");
		if (program.kind !== "build") {
			t.pass("no bytes");
			return;
		}
		const altered = {
			...program,
			sha256: "0".repeat(64),
		};
		const applied = harness.runtime.apply(harness.spec(service, 1, "serve", { program: altered }), call);
		await t.rejects(applied, { code: "damaged" });
		t.same((await harness.runtime.observe(service, call)).revisions, []);
	});

	show("it is unavailable once it is closed", async (t, harness, service) => {
		await harness.runtime[Symbol.asyncDispose]();
		const error = await harness.runtime.observe(service, call).catch((reason: unknown) => reason);
		t.ok(isAppError(error, "unavailable"));
	});
}
