import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdir, writeFile } from "node:fs/promises";
import path from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { freePort } from "./port.ts";

const READY_MS = 10_000;

/** nginx's version, or undefined where there is none; with CI=true one that is missing is a fault. */
export function nginxVersion(): string | undefined {
	const found = spawnSync("nginx", ["-V"], { encoding: "utf8" });
	const version = /nginx\/(\S+)/.exec(found.stderr ?? "")?.[1];
	if (version !== undefined && found.stderr.includes("http_dav_module")) return version;
	if (process.env.CI === "true") throw new Error("nginx with its dav module is needed (apt-get install nginx-light)");
	return undefined;
}

/** An nginx of our own, on loopback, that serves and takes files of a folder. */
export class Nginx {
	readonly url: string;
	readonly #child: ChildProcess;

	private constructor(url: string, child: ChildProcess) {
		this.url = url;
		this.#child = child;
	}

	static async start(place: string, root: string): Promise<Nginx> {
		const port = await freePort();
		await mkdir(path.join(place, "logs"), { recursive: true });
		await mkdir(root, { recursive: true });
		const file = path.join(place, "nginx.conf");
		await writeFile(file, configuration(place, root, port));
		// One process: its end is then ours to see, and nobody changes user.
		const child = spawn("nginx", ["-p", place, "-c", file, "-e", path.join(place, "logs/error.log")], {
			stdio: ["ignore", "inherit", "inherit"],
		});
		const url = `http://127.0.0.1:${port}`;
		for (const end = Date.now() + READY_MS; ; await delay(20)) {
			if (
				await fetch(url).then(
					() => true,
					() => false,
				)
			)
				return new Nginx(url, child);
			if (Date.now() > end || child.exitCode !== null) throw new Error("nginx did not start");
		}
	}

	async stop(): Promise<void> {
		if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
		this.#child.kill("SIGTERM");
		await once(this.#child, "exit");
	}
}

function configuration(place: string, root: string, port: number): string {
	const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
		.map((name) => `${name}_temp_path ${place}/${name};`)
		.join(" ");
	return `daemon off; master_process off; worker_processes 1; pid ${place}/nginx.pid;
events { worker_connections 64; }
http {
	access_log off; ${temporary}
	sendfile on; tcp_nopush on; client_max_body_size 0; client_body_buffer_size 1m;
	server { listen 127.0.0.1:${port}; root ${root}; location / { dav_methods PUT; create_full_put_path on; } }
}
`;
}
