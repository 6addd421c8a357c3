import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { Readable, Writable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { type Header, type Pack, pack } from "tar-stream";

/** One entry of an image; names without the leading slash, folders before what is in them. */
export type ImageEntry = {
	readonly name: string;
	/** Permissions: 0o755. */
	readonly mode: number;
	/** 0 by default; the group is the same. */
	readonly owner?: number;
} & (
	| { readonly type: "directory" }
	| { readonly type: "text"; readonly text: string }
	/** A file of this machine. */
	| { readonly type: "file"; readonly source: string }
	/** A hard link to an entry before it. */
	| { readonly type: "link"; readonly target: string }
	| { readonly type: "symlink"; readonly target: string }
);

/** What containers of the image get where they do not say otherwise; Docker's own names. */
export type ImageConfig = {
	readonly Entrypoint: readonly string[];
	readonly Env: readonly string[];
	readonly User: string;
	readonly WorkingDir: string;
	readonly Labels: Readonly<Record<string, string>>;
};

const CHUNK = 1024 ** 2;
const EPOCH = new Date(0);

/**
 * An image with one layer, as `docker load` takes it, made of files of this machine and nothing else: the same files make the
 * same bytes, whoever owns them and whenever they were written.
 */
export class ImageArchive {
	readonly #entries: readonly ImageEntry[];
	readonly #config: string;
	readonly #layerSize: number;

	private constructor(entries: readonly ImageEntry[], config: string, layerSize: number) {
		this.#entries = entries;
		this.#config = config;
		this.#layerSize = layerSize;
	}

	/** Reads all of the files once: an image is named by what is in it. */
	static async plan(
		entries: readonly ImageEntry[],
		config: ImageConfig,
		platform: { readonly architecture: string },
	): Promise<ImageArchive> {
		const hash = createHash("sha256");
		let size = 0;
		const count = new Writable({
			write(chunk: Buffer, _encoding, done) {
				hash.update(chunk);
				size += chunk.length;
				done();
			},
		});
		await writeLayer(entries, count);
		const text = JSON.stringify({
			architecture: platform.architecture,
			os: "linux",
			created: EPOCH.toISOString(),
			config,
			rootfs: { type: "layers", diff_ids: [`sha256:${hash.digest("hex")}`] },
			history: [{ created: EPOCH.toISOString(), created_by: "runtime-builds" }],
		});
		return new ImageArchive(entries, text, size);
	}

	/** Hexadecimal sha256 of everything that the image is. */
	get digest(): string {
		return createHash("sha256").update(this.#config).digest("hex");
	}

	/** The archive, with the image's tag in it; whoever stops reading destroys it. */
	stream(tag: string): Readable {
		return Readable.from(this.#write(tag), { objectMode: false, highWaterMark: CHUNK });
	}

	async *#write(tag: string): AsyncGenerator<unknown> {
		const archive = pack();
		const config = `${this.digest}.json`;
		const manifest = JSON.stringify([{ Config: config, RepoTags: [tag], Layers: ["layer.tar"] }]);
		const writing = (async () => {
			archive.entry(headers(config, 0o644), this.#config);
			archive.entry(headers("manifest.json", 0o644), manifest);
			await writeLayer(
				this.#entries,
				archive.entry({ ...headers("layer.tar", 0o644), size: this.#layerSize }, (error) => {
					if (error) archive.destroy(error);
				}),
			);
			archive.finalize();
		})();
		// The reader hears of it by the archive.
		writing.catch((error: Error) => archive.destroy(error));
		try {
			for await (const chunk of archive) yield chunk;
			await writing;
		} finally {
			archive.destroy();
		}
	}
}

async function writeLayer(entries: readonly ImageEntry[], into: NodeJS.WritableStream): Promise<void> {
	const layer = pack();
	const reading = pipeline(layer, into);
	const filling = (async () => {
		for (const entry of entries) await writeEntry(layer, entry);
		layer.finalize();
	})();
	filling.catch((error: Error) => layer.destroy(error));
	await Promise.all([filling, reading]);
}

async function writeEntry(layer: Pack, entry: ImageEntry): Promise<void> {
	const header = headers(entry.name, entry.mode, entry.owner);
	switch (entry.type) {
		case "directory":
			layer.entry({ ...header, type: "directory" });
			break;
		case "text":
			layer.entry(header, entry.text);
			break;
		case "link":
			layer.entry({ ...header, type: "link", linkname: entry.target });
			break;
		case "symlink":
			layer.entry({ ...header, type: "symlink", linkname: entry.target });
			break;
		case "file": {
			const { size } = await stat(entry.source);
			await pipeline(
				createReadStream(entry.source, { highWaterMark: CHUNK, end: Math.max(0, size - 1) }),
				layer.entry({ ...header, size }),
			);
		}
	}
}

function headers(name: string, mode: number, owner = 0): Partial<Header> & Pick<Header, "name"> {
	return { name, mode, uid: owner, gid: owner, mtime: EPOCH };
}
