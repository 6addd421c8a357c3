import type { Call } from "../builder.ts";
import { runCommand } from "../command.ts";
import type { Confined, Ended, Sandbox } from "./sandbox.ts";

/** No sandbox: a command may do what the server's user may. For machines without bubblewrap, and for trusted sources. */
export class OpenSandbox implements Sandbox {
	readonly name = "none";

	run(command: Confined, call: Call): Promise<Ended> {
		return runCommand(command, call);
	}
}
