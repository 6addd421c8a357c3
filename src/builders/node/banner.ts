/**
 * What every bundle starts with. Node reads the source map of a file only where it was told to before it loaded that file,
 * and a `#!` line cannot portably tell it; so the first stack that somebody looks at reads the map.
 * `@FILE` is the name of the bundle in stack traces, `@PATH` its path.
 */
const SOURCE_MAP = `
if (!process.sourceMapsEnabled) {
	const own = @FILE;
	let map;
	const read = () => {
		try {
			const text = process.getBuiltinModule("node:fs").readFileSync(@PATH, "utf8");
			const mark = "sourceMapping" + "URL=data:application/json;base64,";
			const json = Buffer.from(text.slice(text.lastIndexOf(mark) + mark.length), "base64").toString();
			return new (process.getBuiltinModule("node:module").SourceMap)(JSON.parse(json));
		} catch {
			return null;
		}
	};
	const place = (site) => {
		const line = site.getLineNumber(), column = site.getColumnNumber();
		if (site.getFileName() !== own || !line || !column) return String(site);
		map = map === undefined ? read() : map;
		const entry = map?.findEntry(line - 1, column - 1);
		if (entry?.originalSource === undefined) return String(site);
		return String(site).replace(own + ":" + line + ":" + column, () => entry.originalSource + ":" + (entry.originalLine + 1) + ":" + (entry.originalColumn + 1));
	};
	Error.prepareStackTrace = (error, sites) => {
		let head = "Error";
		try { head = Error.prototype.toString.call(error); } catch {}
		return head + sites.map((site) => "\\n    at " + place(site)).join("");
	};
}`;

/** A property of globalThis, since a name at the top of the file could be one of the program's own. */
const ESM = `{
const url = import.meta.url, path = process.getBuiltinModule("node:url").fileURLToPath(url);
const hidden = (value) => ({ value, writable: true, configurable: true, enumerable: false });
Object.defineProperty(globalThis, "__bundle", hidden({ filename: path, dirname: process.getBuiltinModule("node:path").dirname(path) }));
if (globalThis.require === undefined) Object.defineProperty(globalThis, "require", hidden(process.getBuiltinModule("node:module").createRequire(url)));
${SOURCE_MAP.replace("@FILE", "url").replace("@PATH", "path")}
}`;

const CJS = `{
const url = require("node:url").pathToFileURL(__filename).href;
Object.defineProperty(globalThis, "__bundle", { value: { url }, writable: true, configurable: true, enumerable: false });
${SOURCE_MAP.replace("@FILE", "__filename").replace("@PATH", "__filename")}
}`;

const oneLine = (text: string) => text.replaceAll(/\s*\n\s*/g, " ").trim();

export const BANNERS = { esm: oneLine(ESM), cjs: oneLine(CJS) } as const;
