// Prepares a clone for `npm test` and `npm run demo`, on a machine with some Node >= 18 and npm: installs the pinned
// dependencies (Node itself is one of them) where they are not there yet. Plain JavaScript: it runs on the old Node.
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";

// import.meta.dirname is not there before Node 20.11.
const root = fileURLToPath(new URL("..", import.meta.url));
const packageFile = path.join(root, "package.json");
const wanted = `v${JSON.parse(readFileSync(packageFile, "utf8")).devDependencies.node}`;
const node = path.join(root, "node_modules", ".bin", "node");
const stamp = path.join(root, "node_modules", ".package-lock.json");

function installedNode() {
	if (!existsSync(node) || !existsSync(stamp)) return undefined;
	return spawnSync(node, ["-v"], { encoding: "utf8" }).stdout?.trim();
}

if (installedNode() !== wanted) {
	process.stderr.write("Installing the project's dependencies (once)\n");
	const result = spawnSync("npm", ["ci", "--no-fund", "--no-audit", "--loglevel=error"], {
		cwd: root,
		stdio: ["ignore", 2, 2],
	});
	if (result.status !== 0) {
		process.stderr.write("✘ npm ci failed; its words are above\n");
		process.exit(1);
	}
}
const found = installedNode();
if (found !== wanted) {
	process.stderr.write(
		`✘ Node ${wanted} is needed and ${found ?? "none"} was installed: run \`npm ci\` without --ignore-scripts\n`,
	);
	process.exit(1);
}
