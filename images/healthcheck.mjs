// What the image's HEALTHCHECK runs: exits with 0 where the server of this data folder says that it takes work.
import { readFileSync } from "node:fs";
import http from "node:http";
import https from "node:https";
import path from "node:path";

const LIMIT_MS = 4_000;

function fail(why) {
	process.stderr.write(`unhealthy: ${why}\n`);
	process.exit(1);
}

let url;
try {
	url = new URL(JSON.parse(readFileSync(path.join(process.env.RUNTIME_DATA_DIR ?? ".", "server.json"), "utf8")).url);
} catch (error) {
	fail(`the server is not up (${error.code ?? error.message})`);
}
// It listens on every address; its certificate names the one that clients use, and this is no client.
if (url.hostname === "0.0.0.0") url.hostname = "127.0.0.1";
if (url.hostname === "[::]") url.hostname = "[::1]";
const { get } = url.protocol === "https:" ? https : http;
const request = get(new URL("/readyz", url), { rejectUnauthorized: false, timeout: LIMIT_MS }, (response) => {
	if (response.statusCode === 200) process.exit(0);
	fail(`GET /readyz answered ${response.statusCode}`);
});
request.on("timeout", () => fail(`no answer within ${LIMIT_MS} ms`));
request.on("error", (error) => fail(error.message));
