import fc from "fast-check";
import t from "tap";
import { Draft } from "../../src/manager/draft.ts";
import { revisionError, STATUSES } from "../../src/manager/model.ts";
import { isActive, isLegal, isOnItsWay, isSettled } from "../../src/manager/transitions.ts";
import { WISH } from "../conformance/service-store.ts";

t.test("a revision begins as Pending and nothing else", async (t) => {
	for (const status of STATUSES) t.equal(isLegal(null, status), status === "Pending", status);
});

t.test("every state leads to Running, Stopped or Error", async (t) => {
	for (const start of STATUSES) {
		const reached = new Set([start]);
		for (const from of reached) for (const to of STATUSES) if (isLegal(from, to)) reached.add(to);
		t.ok([...reached].some(isSettled), start);
		t.ok(
			[...reached].some((status) => !isActive(status)),
			`${start} can end`,
		);
	}
});

t.test("a revision that failed to build never runs again; a crash loop may", async (t) => {
	for (const code of ["build_failed", "source_invalid", "build_timeout", "superseded"] as const)
		for (const to of STATUSES) t.notOk(isLegal("Error", to, code), `${code} → ${to}`);
	t.ok(isLegal("Error", "Running", "crash_loop"));
});

t.test("a draft lets only legal moves through, numbers them without gaps, and never loses the newest", async (t) => {
	const error = revisionError("exited", "run", "ended");
	await fc.assert(
		fc.property(
			fc.array(fc.oneof(fc.constant("add" as const), fc.constantFrom(...STATUSES)), { maxLength: 40 }),
			(steps) => {
				const draft = Draft.create({ id: "i", namespace: "n", name: "s", version: "v", metadata: {} }, "now");
				draft.add(WISH, null);
				for (const step of steps) {
					if (step === "add") {
						draft.add(WISH, null);
						continue;
					}
					const newest = draft.service.revisions.find(({ revision }) => revision === draft.service.newest);
					const legal = newest !== undefined && isLegal(newest.status, step, newest.error?.code ?? null);
					try {
						draft.move(draft.service.newest, step, step === "Error" ? error : null);
						if (!legal) return false;
					} catch {
						if (legal) return false;
					}
				}
				const { events, service } = draft.commit();
				return (
					events.every((event, index) => event.seq === index + 1) &&
					events.every((event) => isLegal(event.from, event.to, event.from === "Error" ? "exited" : null)) &&
					service.revisions.some(({ revision }) => revision === service.newest) &&
					service.revisions.every(({ revision, status }) => isActive(status) || revision === service.newest)
				);
			},
		),
		{ numRuns: 500 },
	);
	t.pass("500 sequences");
});

t.test("what is on its way is neither settled nor ended", async (t) => {
	for (const status of STATUSES) if (isOnItsWay(status)) t.ok(!isSettled(status) && isActive(status), status);
});
