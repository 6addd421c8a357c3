import { createHash } from "node:crypto";
import { once } from "node:events";
import { writeFile } from "node:fs/promises";
import { createServer, type Server } from "node:http";
import { join } from "node:path";
import type { Test } from "tap";
import { type Files, temporaryFolder } from "../../conformance/builder.ts";
import { archiveOf } from "../../fixtures/archive.ts";

type Release = { readonly manifest: Record<string, unknown>; readonly tarball: Buffer; readonly integrity: string };
type Locked = Record<string, unknown>;

/** npm's registry, as far as `npm ci` asks it: documents of packages, and tarballs. */
export class Registry {
	readonly #releases = new Map<string, Release>();
	readonly #server: Server;
	/** `METHOD path`, in order. */
	readonly asked: string[] = [];
	/** Where set, what a request must have in its Authorization header. */
	authorization: string | undefined;

	private constructor() {
		this.#server = createServer((request, response) => {
			const path = decodeURIComponent(request.url ?? "");
			this.asked.push(`${request.method} ${path}`);
			if (this.authorization !== undefined && request.headers.authorization !== this.authorization) {
				response.writeHead(401).end("{}");
				return;
			}
			// The client waits for ever, which makes a build slow.
			if (path.startsWith("/slow/-/")) return;
			const [, name = "", version] = /^\/(.+?)(?:\/-\/(?:.*-)?(\d[\d.]*)\.tgz)?$/.exec(path) ?? [];
			const releases = [...this.#releases].filter(([key]) => key.startsWith(`${name}@`)).map(([, release]) => release);
			const tarball = releases.find(({ manifest }) => manifest.version === version)?.tarball;
			if (version !== undefined && tarball !== undefined) response.end(tarball);
			else if (version === undefined && releases.length > 0) {
				const versions = releases.map(({ manifest, integrity }) => {
					const dist = { tarball: this.tarballOf(name, String(manifest.version)), integrity };
					return [String(manifest.version), { ...manifest, dist }] as const;
				});
				const latest = versions.at(-1)?.[0];
				response.end(JSON.stringify({ name, versions: Object.fromEntries(versions), "dist-tags": { latest } }));
			} else response.writeHead(404, { "content-type": "application/json" }).end('{"error":"not_found"}');
		});
	}

	static async open(t: Test): Promise<Registry> {
		const registry = new Registry();
		registry.#server.listen(0, "127.0.0.1");
		await once(registry.#server, "listening");
		t.teardown(() => {
			registry.#server.closeAllConnections();
			registry.#server.close();
		});
		return registry;
	}

	get url(): string {
		const address = this.#server.address();
		if (address === null || typeof address === "string") throw new Error("it does not listen");
		return `http://127.0.0.1:${address.port}`;
	}

	tarballOf(name: string, version: string): string {
		return `${this.url}/${name}/-/${name.replace(/^.*\//, "")}-${version}.tgz`;
	}

	async publish(name: string, files: Files, more: Record<string, unknown> = {}): Promise<void> {
		const manifest = { name, version: "1.0.0", ...more };
		const entries = Object.entries({ "package.json": JSON.stringify(manifest), ...files });
		const tarball = await archiveOf(Object.fromEntries(entries.map(([path, text]) => [`package/${path}`, text])));
		const integrity = `sha512-${createHash("sha512").update(tarball).digest("base64")}`;
		this.#releases.set(`${name}@${manifest.version}`, { manifest, tarball, integrity });
	}

	/** package.json and its lockfile for these packages, all of version 1.0.0 and side by side. */
	project(names: readonly string[], manifest: Record<string, unknown> = {}, more: Record<string, Locked> = {}): Files {
		const dependencies = Object.fromEntries(names.map((name) => [name, "1.0.0"]));
		const own = { name: "app", version: "1.0.0", dependencies, ...manifest };
		const packages = Object.fromEntries(names.map((name) => [`node_modules/${name}`, this.locked(name)]));
		const lock = { name: "app", lockfileVersion: 3, requires: true, packages: { "": own, ...packages, ...more } };
		return { "package.json": JSON.stringify(own), "package-lock.json": JSON.stringify(lock) };
	}

	locked(name: string): Locked {
		const release = this.#releases.get(`${name}@1.0.0`);
		const { dependencies, optionalDependencies, peerDependencies, peerDependenciesMeta, cpu, os } =
			release?.manifest ?? {};
		const kept = { dependencies, optionalDependencies, peerDependencies, peerDependenciesMeta, cpu, os };
		const known = Object.fromEntries(Object.entries(kept).filter(([, value]) => value !== undefined));
		return { version: "1.0.0", resolved: this.tarballOf(name, "1.0.0"), integrity: release?.integrity, ...known };
	}

	/** The environment of a server whose person uses this registry. */
	async serverEnv(t: Test, npmrc = ""): Promise<Record<string, string | undefined>> {
		const home = await temporaryFolder(t);
		await writeFile(join(home, ".npmrc"), `registry=${this.url}/\n${npmrc}\n`);
		return { PATH: process.env.PATH, HOME: home, npm_config_userconfig: join(home, ".npmrc") };
	}
}
