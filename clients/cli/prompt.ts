import { StringDecoder } from "node:string_decoder";
import { CliError, EXIT } from "./errors.ts";

/** Asks on a terminal without showing what is typed. Rejects at Ctrl-C and Ctrl-D. */
export async function askHidden(
	question: string,
	stdin: NodeJS.ReadStream,
	stderr: NodeJS.WriteStream,
): Promise<string> {
	stderr.write(question);
	stdin.setRawMode(true);
	stdin.resume();
	const decoder = new StringDecoder("utf8");
	let answer = "";
	try {
		await new Promise<void>((resolve, reject) => {
			const ended = () => finish(() => reject(cancelled()));
			const finish = (done: () => void) => {
				stdin.off("data", read).off("end", ended);
				done();
			};
			const read = (bytes: Buffer) => {
				for (const character of decoder.write(bytes)) {
					if (character === "\r" || character === "\n") return finish(resolve);
					if (character === "\u0003" || character === "\u0004") return ended();
					if (character === "\u007f" || character === "\b") answer = [...answer].slice(0, -1).join("");
					else answer += character;
				}
			};
			stdin.on("data", read).on("end", ended);
		});
		return answer;
	} finally {
		stdin.setRawMode(false);
		stdin.pause();
		stderr.write("\n");
	}
}

function cancelled(): CliError {
	return new CliError("Cancelled; nothing was created", { exit: EXIT.cancelled, code: "cancelled" });
}
