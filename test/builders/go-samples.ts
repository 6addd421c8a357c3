import type { BuilderSamples } from "../conformance/builder.ts";

export const MOD = "module example.com/x\n\ngo 1.21\n";
export const main = (body: string, imports = "") => `package main\n\n${imports}\nfunc main() {\n${body}\n}\n`;

/** Go's sources for builderSuite. */
export function goSamples(): BuilderSamples {
	let salt = 0;
	return {
		valid: { "go.mod": MOD, "main.go": main('\tprintln("hi")') },
		nested: { files: { "go.mod": MOD, "cmd/a/main.go": main('\tprintln("hi")') }, entrypoint: "cmd/a" },
		broken: {
			files: { "go.mod": MOD, "main.go": main('\tfmt.Prinln("hi")', 'import "fmt"\n') },
			file: "main.go",
			line: 6,
			column: 6,
			message: /undefined: fmt\.Prinln/,
		},
		slow: () => {
			const files: Record<string, string> = { "go.mod": MOD, "main.go": main("", '\nimport _ "example.com/x/big"\n') };
			const stamp = `${process.pid}_${Date.now()}_${salt++}`;
			for (let n = 0; n < 40; n++) {
				const functions = Array.from({ length: 150 }, (_, i) => {
					const body = `m := map[string]int{}; for i := 0; i < n; i++ { m[string(rune(i))] += i * ${i} }; return len(m) + n`;
					return `func F${stamp}_${n}_${i}(n int) int { ${body} }`;
				});
				files[`big/f${n}.go`] = `package big\n\n${functions.join("\n")}\n`;
			}
			return files;
		},
		foreign: { "README.md": "nothing to build" },
	};
}
