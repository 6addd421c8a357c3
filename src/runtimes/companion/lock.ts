import { link, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { Ballast } from "../../ballast.ts";
import { systemCode } from "../../errors.ts";
import type { Platform } from "../../platform/platform.ts";

/** A unix socket's path may have so many bytes (104 on macOS, its end included). */
const LONGEST_PATH = 100;
/** For records, and for the state of services that are to be stopped on a full disk. */
const BALLAST = 2 * 1024 * 1024;
const RECORD = /^(\d{12})\.json$/;

export type Holder = {
	readonly pid: number;
	readonly startTime: string;
	readonly bootId: string;
	readonly instance: string;
	/** Where it listens, or will in a moment. */
	readonly socket: string;
};

/**
 * Who is the companion of a folder: the record with the highest number, for as long as that process lives. To succeed a
 * dead one is to link the next number, which only one can do; the highest record is never deleted, so that one who
 * looked too early finds a higher one after its link and gives way. A kill -9 frees it with no more ado.
 */
export class CompanionLock {
	/** What the companion may give up in order to go on where the disk is full. */
	readonly ballast: Ballast;
	readonly #folder: string;
	readonly #platform: Platform;

	constructor(dataFolder: string, platform: Platform) {
		this.#folder = join(dataFolder, "companion");
		this.#platform = platform;
		this.ballast = new Ballast(join(this.#folder, "ballast"), BALLAST);
	}

	get folder(): string {
		return this.#folder;
	}

	/** The living companion, null where there is none. */
	async holder(): Promise<Holder | null> {
		const newest = (await this.#numbers()).at(-1);
		const holder = newest === undefined ? null : await this.#read(newest);
		return holder !== null && (await this.#lives(holder)) ? holder : null;
	}

	/** Makes this process the companion; null where another one is. */
	async take(instance: string): Promise<Holder | null> {
		await mkdir(this.#folder, { recursive: true, mode: 0o700 });
		for (;;) {
			// One look for both: the number to take is next to the very record that was found dead.
			const newest = (await this.#numbers()).at(-1);
			const last = newest === undefined ? null : await this.#read(newest);
			if (last !== null && (await this.#lives(last))) return null;
			const number = (newest ?? 0) + 1;
			const startTime = await this.#platform.startTime(process.pid);
			if (startTime === null) return null;
			const socket = await this.#socketPath(number);
			const holder: Holder = {
				...{ pid: process.pid, startTime, instance, socket },
				bootId: await this.#platform.bootId(),
			};
			const draft = join(this.#folder, `${instance}.draft`);
			try {
				await this.ballast.spend(async () => {
					await writeFile(draft, JSON.stringify(holder), { mode: 0o600 });
					await link(draft, this.#file(number));
				});
			} catch (error) {
				if (systemCode(error) !== "EEXIST") throw error;
				await this.#discard(holder);
				continue;
			} finally {
				await rm(draft, { force: true });
			}
			if ((await this.#numbers()).at(-1) !== number) {
				await rm(this.#file(number), { force: true });
				await this.#discard(holder);
				continue;
			}
			for (const older of await this.#numbers()) {
				if (older >= number) continue;
				const gone = await this.#read(older);
				await rm(this.#file(older), { force: true });
				if (gone !== null) await this.#discard(gone);
			}
			return holder;
		}
	}

	/** Clears away where it listened; the record stays, and says of a dead process what it was. */
	async release(holder: Holder): Promise<void> {
		await this.#discard(holder);
	}

	#file(number: number): string {
		return join(this.#folder, `${String(number).padStart(12, "0")}.json`);
	}

	async #numbers(): Promise<number[]> {
		try {
			const names = await readdir(this.#folder);
			return names
				.flatMap((name) => RECORD.exec(name)?.[1] ?? [])
				.map(Number)
				.sort((a, b) => a - b);
		} catch (error) {
			if (systemCode(error) === "ENOENT") return [];
			throw error;
		}
	}

	async #read(number: number): Promise<Holder | null> {
		try {
			const value: unknown = JSON.parse(await readFile(this.#file(number), "utf8"));
			return isHolder(value) ? value : null;
		} catch (error) {
			// A power cut can leave a record empty; its process is gone then as well.
			if (error instanceof SyntaxError || systemCode(error) === "ENOENT") return null;
			throw error;
		}
	}

	async #lives(holder: Holder): Promise<boolean> {
		return (
			holder.bootId === (await this.#platform.bootId()) &&
			(await this.#platform.startTime(holder.pid)) === holder.startTime
		);
	}

	async #socketPath(number: number): Promise<string> {
		const near = join(this.#folder, `${number}.sock`);
		if (Buffer.byteLength(near) <= LONGEST_PATH) return near;
		return join(await mkdtemp(join(tmpdir(), "runtime-")), "sock");
	}

	async #discard({ socket }: Holder): Promise<void> {
		const folder = dirname(socket);
		if (folder === this.#folder) await rm(socket, { force: true });
		else await rm(folder, { recursive: true, force: true });
	}
}

function isHolder(value: unknown): value is Holder {
	if (typeof value !== "object" || value === null) return false;
	const record: Partial<Record<keyof Holder, unknown>> = value;
	return (
		typeof record.pid === "number" &&
		[record.startTime, record.bootId, record.instance, record.socket].every((field) => typeof field === "string")
	);
}
