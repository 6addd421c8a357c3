import { type ChildProcess, execFile, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdir, mkdtemp, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { CreateBucketCommand, S3Client } from "@aws-sdk/client-s3";
import type { S3Options } from "../../src/blob/s3/options.ts";
import { systemCode } from "../../src/errors.ts";

const VERSION = "v1.8.0";
const PACKAGE = `github.com/versity/versitygw/cmd/versitygw@${VERSION}`;
const BINARY = path.join(tmpdir(), `runtime-builds-versitygw-${VERSION}`);
const REGION = "us-east-1";
const BUCKET = "test-bucket";
const READY_MS = 60_000;

/** A real S3 server on loopback, with folders, secrets and one bucket of its own. */
export class S3Host {
	readonly port: number;
	readonly options: S3Options & Required<Pick<S3Options, "endpoint" | "credentials">>;
	readonly #folder: string;
	#server: ChildProcess | undefined;

	private constructor(folder: string, port: number) {
		this.#folder = folder;
		this.port = port;
		this.options = {
			...{ endpoint: `http://127.0.0.1:${port}`, region: REGION, bucket: BUCKET, forcePathStyle: true },
			credentials: { accessKeyId: randomBytes(8).toString("hex"), secretAccessKey: randomBytes(16).toString("hex") },
		};
	}

	/** For a test's `skip`: what is not here to make one, or false. The server itself is built once. */
	static async missing(): Promise<string | false> {
		if (await exists(BINARY)) return false;
		return promisify(execFile)("go", ["version"]).then(
			() => false,
			() => "there is no go to build an S3 server with",
		);
	}

	static async start(): Promise<S3Host> {
		await build();
		const folder = await mkdtemp(path.join(tmpdir(), "s3-host-"));
		await mkdir(path.join(folder, "data"));
		await mkdir(path.join(folder, "meta"));
		const host = new S3Host(folder, await freePort());
		await host.up();
		const client = host.client();
		await client.send(new CreateBucketCommand({ Bucket: BUCKET }));
		client.destroy();
		return host;
	}

	/** A client of the SDK alone. */
	client(): S3Client {
		const { endpoint, credentials } = this.options;
		return new S3Client({ endpoint, region: REGION, forcePathStyle: true, credentials });
	}

	async up(): Promise<void> {
		const { accessKeyId, secretAccessKey } = this.options.credentials;
		const [meta, data] = [path.join(this.#folder, "meta"), path.join(this.#folder, "data")];
		const server = spawn(
			BINARY,
			["--port", `127.0.0.1:${this.port}`, "--keep-alive", "--quiet", "posix", "--sidecar", meta, data],
			{
				env: { PATH: process.env.PATH, ROOT_ACCESS_KEY: accessKeyId, ROOT_SECRET_KEY: secretAccessKey },
				stdio: "ignore",
			},
		);
		this.#server = server;
		for (const deadline = Date.now() + READY_MS; !(await answers(this.port)); await sleep(20)) {
			if (server.exitCode !== null) throw new Error(`the S3 server ended with ${server.exitCode}`);
			if (Date.now() > deadline) throw new Error("the S3 server does not answer");
		}
	}

	/** At once, as a power cut would. */
	async down(): Promise<void> {
		const server = this.#server;
		this.#server = undefined;
		if (server === undefined || server.exitCode !== null) return;
		const ended = once(server, "exit");
		server.kill("SIGKILL");
		await ended;
	}

	/** Paths of all objects' files, without what the server keeps for itself. */
	async files(): Promise<string[]> {
		const bucket = path.join(this.#folder, "data", BUCKET);
		const entries = await readdir(bucket, { recursive: true, withFileTypes: true });
		return entries
			.filter((entry) => entry.isFile())
			.map((entry) => path.join(entry.parentPath, entry.name))
			.filter((file) => !path.relative(bucket, file).startsWith("."));
	}

	async close(): Promise<void> {
		await this.down();
		await rm(this.#folder, { recursive: true, force: true });
	}
}

/** Takes minutes, once for this machine: outside the clone. */
async function build(): Promise<void> {
	while (!(await exists(BINARY))) {
		const unlock = await tryLock();
		if (unlock === undefined) {
			await sleep(200);
			continue;
		}
		const folder = await mkdtemp(path.join(tmpdir(), "s3-build-"));
		try {
			if (await exists(BINARY)) return;
			await promisify(execFile)("go", ["install", "-trimpath", "-ldflags=-s -w", PACKAGE], {
				env: { ...process.env, CGO_ENABLED: "0", GOBIN: folder, GOFLAGS: "" },
				maxBuffer: 16 * 1024 ** 2,
				timeout: 15 * 60_000,
			});
			await rename(path.join(folder, "versitygw"), BINARY);
		} finally {
			await rm(folder, { recursive: true, force: true });
			await unlock();
		}
	}
}

/** Undefined while another process that lives has it. */
async function tryLock(): Promise<(() => Promise<void>) | undefined> {
	const lock = `${BINARY}.lock`;
	const unlock = () => rm(lock, { force: true });
	try {
		await writeFile(lock, String(process.pid), { flag: "wx" });
		return unlock;
	} catch (error) {
		if (systemCode(error) !== "EEXIST") throw error;
	}
	const pid = Number(await readFile(lock, "utf8").catch(() => ""));
	try {
		if (pid > 0) process.kill(pid, 0);
	} catch {
		await unlock();
	}
	return undefined;
}

async function freePort(): Promise<number> {
	const server = createServer().listen(0, "127.0.0.1");
	await once(server, "listening");
	const address = server.address();
	server.close();
	await once(server, "close");
	if (address === null || typeof address === "string") throw new Error("no port");
	return address.port;
}

async function answers(port: number): Promise<boolean> {
	const socket = connect(port, "127.0.0.1");
	const connected = await new Promise<boolean>((resolve) => {
		socket.once("connect", () => resolve(true));
		socket.once("error", () => resolve(false));
	});
	socket.destroy();
	return connected;
}

async function exists(file: string): Promise<boolean> {
	return stat(file).then(
		() => true,
		() => false,
	);
}
