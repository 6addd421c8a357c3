/** What a start script runs, or why that cannot be told. `notes` say what of it the build leaves out. */
export type Start = { readonly file: string; readonly notes: readonly string[] } | { readonly why: string };

const RUNNERS = new Set(["node", "nodejs", "tsx", "ts-node", "ts-node-esm", "ts-node-dev", "nodemon"]);
/** Flags of these programs whose value is the next word. */
const WITH_VALUE =
	/^(-r|--require|--import|--loader|--experimental-loader|--env-file|--env-file-if-exists|-C|--conditions|--title|--watch-path|--tsconfig|-P|--project|-O|--compiler-options|-e|--ext|--exec|--max-old-space-size)$/;
/** Of no consequence in a bundle: it has its types stripped and its source map with it. */
const HARMLESS =
	/^(--enable-source-maps|--watch(-path|-preserve-output)?|--(experimental-)?(strip|transform)-types|--no-warnings|--esm|-T|--transpile-only|--tsconfig|-P|--project)(=|$)/;
const COMPILERS = /^(tsx|ts-node|@swc-node|esbuild-register|sucrase)(\/|$)/;

/** Reads `NODE_ENV=production node --flag server.js`, `tsc && node dist/main.js`, `npx tsx src/main.ts`. */
export function parseStart(script: string): Start {
	const steps = script.split("&&").map((step) => step.trim());
	const notes = steps.slice(0, -1).map((step) => `\`${step}\` of scripts.start is not run`);
	const words = (steps.at(-1)?.match(/"[^"]*"|'[^']*'|\S+/g) ?? []).map((word) => word.replace(/^(["'])(.*)\1$/, "$2"));
	for (;;) {
		const [word = ""] = words;
		const isSetting = /^[A-Za-z_]\w*=/.test(word);
		if (!isSetting && !/^(exec|env|cross-env|npx|--yes|-y)$/.test(word)) break;
		if (isSetting)
			notes.push(`${word.replace(/=.*/s, "")} of scripts.start is not set; give it as a variable of the service`);
		words.shift();
	}
	const runner = words.shift()?.replace(/^.*\//, "") ?? "";
	if (!RUNNERS.has(runner)) return { why: `only node, tsx and ts-node with a file can be read, not \`${runner}\`` };
	if (words[0] === "watch" && runner === "tsx") words.shift();
	while (words[0]?.startsWith("-")) {
		const flag = words.shift() ?? "";
		if (flag === "--") break;
		if (runner !== "nodemon" && /^(-e|--eval|-p|--print|-pe|-i)$/.test(flag)) return { why: `${flag} names no file` };
		const [name = flag, inline] = flag.split(/=(.*)/s);
		const separate = inline === undefined && WITH_VALUE.test(flag);
		const value = inline ?? (separate ? words.shift() : undefined);
		if (HARMLESS.test(flag) || (value !== undefined && COMPILERS.test(value))) continue;
		notes.push(`${name} of scripts.start is not used; NODE_OPTIONS as a variable of the service may say it`);
	}
	const [file, ...args] = words;
	if (file === undefined || /[$`|;<>*]/.test(file)) return { why: "it names no file" };
	if (args.length > 0)
		notes.push(`\`${args.join(" ")}\` of scripts.start is not passed on; give the service its own args`);
	return { file, notes };
}
