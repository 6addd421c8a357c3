import { execFile } from "node:child_process";
import { chmod, chown, mkdir, mkdtemp, readdir, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";

const run = promisify(execFile);
const LIMIT = { timeout: 120_000 };
/** PostgreSQL refuses to run as root. */
const NOBODY = 65_534;
const STARTS = 5;

/** A PostgreSQL of the test's own, on loopback, with durable settings. */
export class PostgresHost {
	readonly #bin: string;
	readonly #folder: string;
	readonly #port: number;

	private constructor(bin: string, folder: string, port: number) {
		this.#bin = bin;
		this.#folder = folder;
		this.#port = port;
	}

	/** For a test's `skip`: why there cannot be one, or false. */
	static async missing(): Promise<string | false> {
		return (await binaries()) === undefined ? "there is no PostgreSQL (initdb)" : false;
	}

	/** Resolves when it answers. */
	static async start(): Promise<PostgresHost> {
		const bin = await binaries();
		if (bin === undefined) throw new Error("there is no PostgreSQL");
		const folder = await mkdtemp(join(tmpdir(), "runtime-postgres-"));
		await chmod(folder, 0o755);
		const data = join(folder, "data");
		await mkdir(data, { mode: 0o700 });
		if (process.getuid?.() === 0) for (const own of [folder, data]) await chown(own, NOBODY, NOBODY);
		const init = ["-U", "postgres", "-A", "trust", "--no-sync", "--no-locale", "-E", "UTF8"];
		await asNobody(join(bin, "initdb"), ["-D", data, ...init], folder);
		for (let attempt = 1; ; attempt++) {
			const host = new PostgresHost(bin, folder, await freePort());
			try {
				await host.resume();
				return host;
			} catch (error) {
				// Somebody else took the port.
				if (attempt >= STARTS) throw error;
			}
		}
	}

	/** A database of its own, for one test; its URL. */
	async database(name: string): Promise<string> {
		await asNobody(join(this.#bin, "createdb"), [...this.#address, name], this.#folder);
		return this.url(name);
	}

	url(database: string, user = "postgres"): string {
		return `postgres://${user}@127.0.0.1:${this.#port}/${database}`;
	}

	get port(): number {
		return this.#port;
	}

	/** One statement by an administrator; its output as text. */
	async sql(database: string, text: string): Promise<string> {
		const args = [...this.#address, "-d", database, "-qtAc", text];
		return (await asNobody(join(this.#bin, "psql"), args, this.#folder)).trim();
	}

	/** As a crash does: nothing is flushed, and the next start recovers. */
	async crash(): Promise<void> {
		await this.#control("stop", "-m", "immediate");
	}

	async resume(): Promise<void> {
		const options = `-p ${this.#port} -c listen_addresses=127.0.0.1 -c unix_socket_directories=${this.#folder}`;
		await this.#control("start", "-l", join(this.#folder, "log"), "-o", `${options} -c max_connections=200`);
	}

	async stop(): Promise<void> {
		await this.#control("stop", "-m", "fast").catch(() => undefined);
		await rm(this.#folder, { recursive: true, force: true });
	}

	get #address(): string[] {
		return ["-h", "127.0.0.1", "-p", String(this.#port), "-U", "postgres"];
	}

	async #control(...args: string[]): Promise<void> {
		await asNobody(
			join(this.#bin, "pg_ctl"),
			["-w", "-t", "60", "-D", join(this.#folder, "data"), ...args],
			this.#folder,
		);
	}
}

async function binaries(): Promise<string | undefined> {
	const root = "/usr/lib/postgresql";
	const versions = await readdir(root).catch(() => []);
	const newest = versions
		.map(Number)
		.filter(Number.isInteger)
		.sort((a, b) => b - a)[0];
	return newest === undefined ? undefined : join(root, String(newest), "bin");
}

async function asNobody(file: string, args: readonly string[], cwd: string): Promise<string> {
	const drop = process.getuid?.() === 0 ? { uid: NOBODY, gid: NOBODY } : {};
	const env = { PATH: process.env.PATH ?? "", LC_ALL: "C" };
	return (await run(file, args, { ...LIMIT, ...drop, cwd, env })).stdout;
}

async function freePort(): Promise<number> {
	const server = createServer();
	await new Promise<void>((resolve, reject) => {
		server.once("error", reject);
		server.listen(0, "127.0.0.1", resolve);
	});
	const address = server.address();
	await new Promise((resolve) => server.close(resolve));
	if (address === null || typeof address === "string") throw new Error("no port");
	return address.port;
}
