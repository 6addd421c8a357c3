import { readdir, readFile } from "node:fs/promises";
import path from "node:path";
import t from "tap";

const ROOT = path.resolve(import.meta.dirname, "..");

/** What each room may import besides itself and what is shared: rooms, files, and packages. */
const RULES: readonly {
	readonly room: string;
	readonly may: readonly string[];
	readonly packages: readonly string[];
}[] = [
	{ room: "src/errors.ts", may: [], packages: [] },
	{ room: "src/failpoint.ts", may: [], packages: [] },
	{ room: "src/leveldb", may: [], packages: ["level", "abstract-level"] },
	{ room: "src/postgres", may: [], packages: ["pg"] },
	{ room: "src/platform", may: [], packages: [] },
	{ room: "src/blob/s3", may: ["src/blob"], packages: ["@aws-sdk/client-s3", "@aws-sdk/lib-storage"] },
	{ room: "src/blob", may: ["src/leveldb"], packages: [] },
	{ room: "src/accounts", may: ["src/leveldb", "src/postgres"], packages: [] },
	{
		room: "src/sources",
		may: ["src/blob/store.ts", "src/builders/builder.ts"],
		packages: ["tar-stream", "ipaddr.js", "undici"],
	},
	{ room: "src/builders", may: ["src/blob/store.ts", "src/platform"], packages: [] },
	{
		room: "src/runtimes/docker",
		may: [
			"src/runtimes/companion",
			"src/runtimes/output",
			"src/runtimes/runtime.ts",
			"src/blob/store.ts",
			"src/builders/builder.ts",
			"src/builders/sandbox/container/engine.ts",
			"src/platform",
		],
		packages: ["dockerode", "tar-stream"],
	},
	{
		room: "src/runtimes",
		may: ["src/blob/store.ts", "src/builders/builder.ts", "src/platform"],
		packages: [],
	},
	{
		room: "src/manager",
		may: [
			"src/blob/store.ts",
			"src/blob/blobs.ts",
			"src/builders/builder.ts",
			"src/runtimes/runtime.ts",
			"src/builders/launcher.ts",
			"src/sources/entrypoint.ts",
			"src/sources/directories.ts",
			"src/leveldb",
			"src/postgres",
		],
		packages: [],
	},
	{ room: "src/contract", may: [], packages: ["ajv/dist/2020.js", "ajv-formats", "yaml", "fastify"] },
	{
		room: "src/routes",
		may: ["src/contract", "src/manager", "src/accounts/tokens.ts", "src/blob/store.ts"],
		packages: ["fastify", "@fastify/multipart", "@fastify/swagger", "@fastify/swagger-ui"],
	},
	{
		room: "src/loading",
		may: [
			"src/manager/queries.ts",
			"src/manager/reconcile.ts",
			"src/manager/model.ts",
			"src/contract/bind.ts",
			"src/routes/builds.ts",
			"src/routes/problem.ts",
		],
		packages: ["fastify", "ipaddr.js", "@peculiar/x509", "reflect-metadata"],
	},
	{ room: "clients/cli", may: [], packages: ["commander", "ignore", "openapi-fetch", "tar-stream", "undici"] },
];

/** The CLI knows the server by its contract alone. */
const TYPES_ONLY: Readonly<Record<string, readonly string[]>> = { "clients/cli": ["src/contract/types.gen.ts"] };

async function sourceFiles(folder: string): Promise<string[]> {
	const entries = await readdir(path.join(ROOT, folder), { recursive: true, withFileTypes: true });
	return entries
		.filter((entry) => entry.isFile() && entry.name.endsWith(".ts"))
		.map((entry) => path.relative(ROOT, path.join(entry.parentPath, entry.name)));
}

type Import = { readonly from: string; readonly isType: boolean };

function importsOf(text: string): Import[] {
	const found = text.matchAll(/(?:^|\n)\s*(?:import|export)\s+(type\s+)?(?:[\w*{][^;"']*?from\s+)?"([^"]+)"/g);
	const dynamic = text.matchAll(/\bimport\("([^"]+)"\)/g);
	return [
		...[...found].map((match) => ({ from: match[2] ?? "", isType: match[1] !== undefined })),
		...[...dynamic].map((match) => ({ from: match[1] ?? "", isType: false })),
	];
}

/** Small things that every room of the server may use. */
const SHARED = [
	"src/errors.ts",
	"src/failpoint.ts",
	"src/turns.ts",
	"src/semaphore.ts",
	"src/ballast.ts",
	"src/remove-tree.ts",
];

const inside = (file: string, place: string) => file === place || file.startsWith(`${place}/`);

t.test("every room imports only what the architecture allows", async (t) => {
	const files = [...(await sourceFiles("src")), ...(await sourceFiles("clients"))];
	t.ok(files.length > 40);
	for (const file of files) {
		const rule = RULES.find(({ room }) => inside(file, room));
		if (rule === undefined) continue;
		for (const { from, isType } of importsOf(await readFile(path.join(ROOT, file), "utf8"))) {
			if (from.startsWith("node:")) continue;
			if (!from.startsWith(".")) {
				t.ok(rule.packages.includes(from), `${file} imports package ${from}`);
				continue;
			}
			const target = path.relative(ROOT, path.resolve(ROOT, path.dirname(file), from));
			const shared = SHARED.includes(target);
			const typesOnly = isType && (TYPES_ONLY[rule.room] ?? []).includes(target);
			const allowed = [rule.room, ...rule.may].some((place) => inside(target, place));
			t.ok((shared && rule.room.startsWith("src/")) || allowed || typesOnly, `${file} imports ${target}`);
		}
	}
});

const HTTP_ITSELF = ["src/builders/sandbox/proxy.ts", "src/builders/python/index-gateway.ts", "src/blob/s3"];

t.test("only problem.ts knows the HTTP status of an error, and nothing below the routes knows any", async (t) => {
	for (const folder of ["src/manager", "src/blob", "src/builders", "src/sources", "src/leveldb", "src/accounts"])
		for (const file of await sourceFiles(folder)) {
			// These are HTTP servers themselves, or clients of one: what is said there is no answer of ours.
			if (HTTP_ITSELF.some((place) => inside(file, place))) continue;
			const text = await readFile(path.join(ROOT, file), "utf8");
			t.notMatch(text, /\bstatusCode\b|\bfastify\b/i, file);
		}
});

t.test("only the Docker engine, and what composes it, knows the client of Docker", async (t) => {
	for (const file of [...(await sourceFiles("src")), ...(await sourceFiles("clients"))]) {
		if (inside(file, "src/runtimes/docker") || file === "src/compose-docker.ts") continue;
		t.notMatch(await readFile(path.join(ROOT, file), "utf8"), /from "dockerode"|import\("dockerode"\)/, file);
	}
});

t.test("nothing in the project names a machine, a mirror or a registry's host", async (t) => {
	for (const file of [
		...(await sourceFiles("src")),
		...(await sourceFiles("clients")),
		"package-lock.json",
		".npmrc",
	]) {
		const text = await readFile(path.join(ROOT, file), "utf8");
		t.notMatch(text, /proxy\.golang\.org|registry\.npmjs\.org|"resolved":/, file);
	}
});
