import t from "tap";
import { TestApp } from "../harness/app.ts";
import { TestCore } from "../harness/core.ts";

t.test("without a sandbox nothing is built but the administrator's", async (t) => {
	const core = await TestCore.open(t);
	const app = await TestApp.open(t, core, { buildsFor: "administrator" });
	const source = await core.upload("1");
	const tenant = { authorization: `Bearer ${app.tenant}` };
	const merge = { ...tenant, "content-type": "application/merge-patch+json" };
	for (const [method, url, headers, payload] of [
		["POST", "/services", tenant, { name: "app", source }],
		["PUT", "/services/app/latest", tenant, { source }],
		["PATCH", "/services/app/latest", merge, { source }],
	] as const) {
		const answer = await app.call(method, url, { headers, payload });
		t.match(
			answer.json(),
			{ status: 403, code: "permission_denied", detail: /no sandbox/, hint: /--open-builds/ },
			method,
		);
	}
	t.equal((await app.call("GET", "/services", { headers: tenant })).status, 200, "reading is as ever");
	t.equal(
		(await app.call("POST", "/services", { payload: { name: "app", source } })).status,
		202,
		"the administrator's",
	);
	t.same(app.faults, []);
});

t.test("with one, everybody's", async (t) => {
	const core = await TestCore.open(t);
	const app = await TestApp.open(t, core);
	const headers = { authorization: `Bearer ${app.tenant}` };
	const answer = await app.call("POST", "/services", { headers, payload: { name: "app", source: "nothing" } });
	t.not(answer.status, 403);
	t.same(app.faults, []);
});
