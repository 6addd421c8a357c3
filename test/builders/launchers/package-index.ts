import { createHash } from "node:crypto";
import { once } from "node:events";
import { createServer, type RequestListener, type Server } from "node:http";
import { createServer as createSecureServer } from "node:https";
import type { AddressInfo } from "node:net";
import type { Test } from "tap";
import type { Files } from "../../conformance/builder.ts";
import { archiveOf } from "../../fixtures/archive.ts";

/** A build backend of the package's own: pip runs it, as it runs setup.py, before anybody has looked at it. */
const BACKEND = (name: string) => `import zipfile
import attack
def get_requires_for_build_wheel(config_settings=None): return []
def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    wheel = "${name}-1.0-py3-none-any.whl"
    info = "${name}-1.0.dist-info/"
    with zipfile.ZipFile(wheel_directory + "/" + wheel, "w") as z:
        z.writestr("${name}.py", "SEEN = " + repr(attack.run()))
        z.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: ${name}\\nVersion: 1.0\\n")
        z.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        z.writestr(info + "RECORD", "")
    return wheel
`;

type Secure = { readonly key: Buffer; readonly cert: Buffer };

/** A Python package index, as far as pip asks it: a page for each package, and archives. */
export class PackageIndex {
	readonly #archives = new Map<string, Buffer>();
	readonly #server: Server;
	readonly #secure: boolean;
	/** Paths, in order. */
	readonly asked: string[] = [];
	/** Where set, `user:password` that a request must come with. */
	credentials: string | undefined;
	/** Where archives are, if not here. */
	filesAt: string | undefined;
	/** How a page names an archive. */
	link = (origin: string, file: string): string => `${origin}/files/${file}`;

	private constructor(secure: Secure | undefined) {
		this.#secure = secure !== undefined;
		const answer: RequestListener = (request, response) => {
			const path = request.url ?? "";
			this.asked.push(path);
			const expected = this.credentials && `Basic ${Buffer.from(this.credentials).toString("base64")}`;
			if (expected !== undefined && request.headers.authorization !== expected) {
				response.writeHead(401, { "www-authenticate": "Basic" }).end("who are you?");
				return;
			}
			const [, name] = /^\/team\/simple\/([^/]+)\/$/.exec(path) ?? [];
			const file = path.startsWith("/files/") ? this.#archives.get(path.slice(7)) : undefined;
			if (file !== undefined) response.end(file);
			else if (name !== undefined && this.#archives.has(`${name}-1.0.tar.gz`)) {
				const archive = `${name}-1.0.tar.gz`;
				const sum = createHash("sha256")
					.update(this.#archives.get(archive) ?? "")
					.digest("hex");
				const href = `${this.link(this.filesAt ?? this.url, archive)}#sha256=${sum}`;
				response.writeHead(200, { "content-type": "text/html" }).end(`<a href="${href}">${archive}</a>`);
			} else if (path === "/private") response.end("private");
			else response.writeHead(404).end("none");
		};
		this.#server = secure === undefined ? createServer(answer) : createSecureServer(secure, answer);
	}

	static async open(t: Test, secure?: Secure): Promise<PackageIndex> {
		const index = new PackageIndex(secure);
		index.#server.listen(0, "127.0.0.1");
		await once(index.#server, "listening");
		t.teardown(() => {
			index.#server.closeAllConnections();
			index.#server.close();
		});
		return index;
	}

	get url(): string {
		return `${this.#secure ? "https" : "http"}://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
	}

	get simple(): string {
		const url = new URL(`${this.url}/team/simple`);
		if (this.credentials !== undefined) [url.username = "", url.password = ""] = this.credentials.split(":");
		return url.href;
	}

	/** `attack` is Python whose \`run()\` is called when it is built; what it gives is \`SEEN\` of the module. */
	async publish(name: string, attack: string): Promise<void> {
		const files: Files = {
			"PKG-INFO": `Metadata-Version: 2.1\nName: ${name}\nVersion: 1.0\n`,
			"pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "setup"\nbackend-path = ["."]\n',
			"setup.py": BACKEND(name),
			"attack.py": attack,
		};
		const entries = Object.entries(files).map(([path, text]) => [`${name}-1.0/${path}`, text]);
		this.#archives.set(`${name}-1.0.tar.gz`, await archiveOf(Object.fromEntries(entries)));
	}
}
