import type { Context, Input } from "../context.ts";
import { EXIT, usage } from "../errors.ts";
import { nearest } from "../format.ts";

const SCRIPTS: Readonly<Record<string, string>> = {
	bash: `_runtime() {
	local line
	COMPREPLY=()
	while IFS= read -r line; do
		case "$line" in
			:dirs) compopt -o filenames; while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -d -- "\${COMP_WORDS[COMP_CWORD]}") ;;
			:files) compopt -o filenames; while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -f -- "\${COMP_WORDS[COMP_CWORD]}") ;;
			*) COMPREPLY+=("$line") ;;
		esac
	done < <("\${COMP_WORDS[0]}" __complete "\${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -F _runtime runtime
`,
	zsh: `_runtime() {
	local line
	local -a found
	for line in "\${(@f)$("\${words[1]}" __complete "\${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
		case "$line" in
			:dirs) _files -/ ;;
			:files) _files ;;
			?*) found+=("$line") ;;
		esac
	done
	(( \${#found} )) && compadd -a found
}
compdef _runtime runtime
`,
	fish: `function __runtime_complete
	set -l words (commandline -opc) (commandline -ct)
	for line in ($words[1] __complete $words[2..-1] 2>/dev/null)
		switch $line
			case :dirs
				__fish_complete_directories (commandline -ct) ''
			case :files
				__fish_complete_path (commandline -ct)
			case '*'
				echo $line
		end
	end
end
complete -c runtime -f -a '(__runtime_complete)'
`,
};

/** Prints the script; it asks \`runtime __complete WORDS…\` at each Tab. */
export async function completion(context: Context, { args }: Input): Promise<number> {
	const [shell = ""] = args;
	const script = Object.hasOwn(SCRIPTS, shell) ? SCRIPTS[shell] : undefined;
	if (script === undefined) {
		const [close] = nearest(shell, Object.keys(SCRIPTS));
		throw usage(
			`There is no completion for ${shell}; there is for ${Object.keys(SCRIPTS).join(", ")}`,
			close === undefined ? [] : [`Did you mean:  runtime completion ${close}`],
		);
	}
	context.stdout.write(script);
	return EXIT.ok;
}
