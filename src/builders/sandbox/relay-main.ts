import { spawn } from "node:child_process";
import { connect, createServer, type Socket } from "node:net";
import { constants } from "node:os";

/**
 * Runs inside the sandbox, in whose network there is nothing: passes connections to 127.0.0.1 on to the server's proxy by
 * its unix socket, and runs the command. It decides nothing; the proxy does.
 * Arguments: JSON of `{ socket, port, straight }`, the program, its arguments. `straight` are origins of this machine
 * (`127.0.0.1:3000`): clients do not use a proxy for these, so they are listened for at their own address.
 */
const [plan = "{}", file = "", ...args] = process.argv.slice(2);
const { socket, port, straight }: { socket: string; port: number; straight: string[] } = JSON.parse(plan);

function join(client: Socket, greeting: string): void {
	const server = connect(socket);
	const cut = () => {
		client.resetAndDestroy();
		server.destroy();
	};
	client.on("error", cut);
	server.on("error", cut);
	client.on("close", () => server.destroy());
	server.on("close", () => client.destroy());
	if (greeting === "") {
		client.pipe(server).pipe(client);
		return;
	}
	server.write(greeting);
	client.pause();
	let answer = Buffer.alloc(0);
	server.on("data", function onData(chunk: Buffer) {
		answer = Buffer.concat([answer, chunk]);
		const end = answer.indexOf("\r\n\r\n");
		if (end === -1) return;
		server.removeListener("data", onData);
		if (!answer.toString("latin1").startsWith("HTTP/1.1 200 ")) return cut();
		client.write(answer.subarray(end + 4));
		client.pipe(server).pipe(client);
	});
}

function listen(host: string, port: number, greeting = ""): Promise<void> {
	return new Promise((resolve, reject) => {
		const server = createServer({ allowHalfOpen: true }, (client) => join(client, greeting));
		server.once("error", reject);
		server.listen(port, host, resolve);
	});
}

await listen("127.0.0.1", port);
for (const authority of straight) {
	const [, host = "", at = ""] = /^(.*):(\d+)$/.exec(authority) ?? [];
	// A port below 1024, or an address family that is not there: the command is refused then, as it would be outside.
	await listen(
		host.replace(/^\[|\]$/g, ""),
		Number(at),
		`CONNECT ${authority} HTTP/1.1\r\nHost: ${authority}\r\n\r\n`,
	).catch(() => undefined);
}
const child = spawn(file, args, { stdio: ["ignore", "inherit", "inherit"] });
child.once("error", (error) => {
	process.stderr.write(`${file}: ${error.message}\n`);
	process.exit(127);
});
child.once("exit", (code, signal) => process.exit(code ?? 128 + (signal === null ? 0 : constants.signals[signal])));
