/** A line of shell as a command; what follows it goes on as its arguments. */
export function shell(line: string): readonly string[] {
	return ["/bin/sh", "-c", `${line} "$@"`, "sh"];
}
