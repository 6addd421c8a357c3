import t from "tap";
import { TestApp } from "../harness/app.ts";
import { TestCore } from "../harness/core.ts";

t.test("the contract's explorer opens without a token and asks nobody else", async (t) => {
	const { app } = await TestApp.open(t, await TestCore.open(t));
	const page = await app.inject("/docs");
	t.equal(page.statusCode, 200);
	t.match(page.headers["content-type"], /^text\/html/);
	const policy = String(page.headers["content-security-policy"]);
	t.match(policy, "default-src 'none'");
	t.match(policy, "script-src 'self';");
	t.notMatch(policy, /https?:|\*/);
	t.notMatch(page.body, /https?:\/\//);
	t.notMatch(page.body, /<script>|<style|\son\w+=/, "nothing inline, which the policy would refuse");
	const parts = [...page.body.matchAll(/(?:src|href)="([^"]+)"/g)].map(([, at = ""]) => at);
	t.ok(parts.length >= 5, "the page's parts were found");
	for (const part of [...parts, "/docs/json", "/docs/yaml", "/docs/"]) {
		const answer = await app.inject(part);
		t.equal(answer.statusCode, 200, part);
		t.equal(answer.headers["content-security-policy"], policy, part);
	}
	const initializer = (await app.inject("/docs/static/swagger-initializer.js")).body;
	t.match(initializer, "validatorUrl: null");
	const document = (await app.inject("/docs/json")).json();
	t.match(document, { openapi: /^3\.1/, servers: [{ url: "/" }], paths: { "/services": { get: {} } } });
});

t.test("what is beside it answers as ever", async (t) => {
	const { app } = await TestApp.open(t, await TestCore.open(t));
	for (const [method, url, status] of [
		["POST", "/docs", 405],
		["GET", "/docs/nosuch", 404],
		["GET", "/docs/static/nosuch.js", 404],
		["GET", "/docs/static/%2e%2e/package.json", 404],
		["GET", "/docs/static/../package.json", 404],
		["GET", "/documents", 404],
		["PUT", "/services", 405],
		["GET", "/services", 401],
	] as const) {
		const answer = await app.inject({ method, url });
		t.equal(answer.statusCode, status, `${method} ${url}`);
		t.match(answer.headers["content-type"], /^application\/problem\+json/, `${method} ${url}`);
		t.match(answer.json(), { status });
	}
	t.equal((await app.inject({ method: "POST", url: "/docs" })).headers.allow, "GET");
	t.notOk("content-security-policy" in (await app.inject("/healthz")).headers);
});
