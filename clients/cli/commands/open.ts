import { spawn } from "node:child_process";
import type { Context, Input } from "../context.ts";
import { CliError, EXIT, hints, isCliError } from "../errors.ts";
import { serviceWords } from "../format.ts";
import { missingService } from "../notices.ts";
import { statusWords } from "./status.ts";

/** Opens a service's URL in a browser; off a terminal, and where nothing can open it, prints it. */
export async function open(context: Context, { args }: Input): Promise<number> {
	const [name = "", version = "latest"] = args;
	const api = await context.api();
	const service = await api.service(name, version).catch(async (error: unknown) => {
		throw isCliError(error, "not_found") ? await missingService(api, name, version) : error;
	});
	const { url } = service;
	if (url === null || service.status !== "Running") {
		const words = `${serviceWords(name, version)}${api.connection.flags}`;
		throw new CliError(`${name}:${version} is not running (${statusWords(service, Date.now())})`, {
			code: "not_running",
			lines: hints([
				["Start it", `runtime start ${words}`],
				["Why", `runtime logs ${words}`],
			]),
		});
	}
	if (context.json) context.printJson({ url });
	else if (context.stdout.isTTY !== true || !(await opened(url, context.env))) context.print(url);
	else context.say(`opened ${url}`);
	return EXIT.ok;
}

/** True where a browser took it. Only web addresses are handed on, whatever a server says. */
async function opened(url: string, env: NodeJS.ProcessEnv): Promise<boolean> {
	if (!URL.canParse(url) || !/^https?:$/.test(new URL(url).protocol)) return false;
	const [command, ...rest] = opener(env);
	if (command === undefined) return false;
	return await new Promise((resolve) => {
		const child = spawn(command, [...rest, url], { stdio: "ignore", detached: true });
		child.once("error", () => resolve(false));
		child.once("exit", (code) => resolve(code === 0));
		// A browser that stays in the foreground has taken it as well.
		const timer = setTimeout(() => {
			child.unref();
			resolve(true);
		}, 2000);
		child.once("close", () => clearTimeout(timer));
	});
}

function opener(env: NodeJS.ProcessEnv): string[] {
	if (env.BROWSER) return env.BROWSER.split(" ").filter((word) => word !== "");
	if (process.platform === "darwin") return ["open"];
	// Without a display it would start a browser for the terminal, on our own.
	return env.DISPLAY || env.WAYLAND_DISPLAY ? ["xdg-open"] : [];
}
