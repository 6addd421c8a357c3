import { readFile, realpath } from "node:fs/promises";
import { isAbsolute, relative } from "node:path";
import { AppError } from "../../../errors.ts";
import type { Bind, ContainerEngine, Housing } from "./engine.ts";
import { hostRoot } from "./host-root.ts";

/** What the root of a build's container is, and how a path of the server's gets into it. */
export interface Place {
	readonly image: string;
	/** Seen by every command. */
	readonly binds: readonly Bind[];
	readonly covered: readonly string[];
	/** Variables that the image sets. */
	readonly variables: readonly string[];
	/** Shows a path of the server's at `target`. Undefined: the image has it there already. */
	bind(path: string, target: string, writable: boolean): Promise<Bind | undefined>;
}

export type User = { readonly uid: number; readonly gid: number };

/** Where the server is: in a container of this engine, or beside it. */
export async function findPlace(engine: ContainerEngine, user: User): Promise<Place> {
	const texts = await Promise.all(["/proc/self/mountinfo", "/proc/self/cgroup"].map((file) => readFile(file, "utf8")));
	for (const id of idsIn(texts.join("\n"))) {
		const housing = await engine.housing(id);
		if (housing !== undefined) return inContainer(housing);
	}
	const { entries, binds } = await hostRoot(user);
	return {
		...{ image: await engine.image(entries), binds, covered: [], variables: [] },
		bind: async (path, target, writable) => ({ source: await realpath(path), target, writable }),
	};
}

/** Ids of containers that this process may be in, by what an engine mounts into each, and by names of control groups. */
export function idsIn(text: string): Set<string> {
	const found = text.matchAll(/\/containers\/([0-9a-f]{64})\/(?:hostname|hosts|resolv\.conf)\b|[/-]([0-9a-f]{64})\b/g);
	return new Set([...found].flatMap(([, mounted, group]) => mounted ?? group ?? []));
}

/** The server's own image holds the toolchains; its volumes are folders of the machine that the engine is on. */
export function inContainer({ image, variables, volumes, mounts }: Housing): Place {
	const byDepth = [...mounts].sort((a, b) => b.target.length - a.target.length);
	return {
		...{ image, variables, covered: volumes, binds: [] },
		async bind(path, target, writable) {
			const real = await realpath(path);
			for (const mount of byDepth) {
				const rest = relative(mount.target, real);
				if (rest === ".." || rest.startsWith("../") || isAbsolute(rest)) continue;
				if (mount.source === null)
					throw new AppError(
						"invalid_argument",
						`${mount.target} of the server's container is in memory, and other containers cannot see what is in it`,
						{ field: "dataDir", hint: "Keep the data folder in a volume." },
					);
				return { source: rest === "" ? mount.source : `${mount.source.replace(/\/$/, "")}/${rest}`, target, writable };
			}
			if (!writable && real === target) return undefined;
			throw new AppError(
				"invalid_argument",
				`${path} is in the server's container alone, and builds in other containers cannot see it`,
				{ field: "dataDir", hint: "Keep the data folder in a volume." },
			);
		},
	};
}
