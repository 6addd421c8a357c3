import { AppError } from "../../src/errors.ts";
import type { OpenedSource, PinnedSource, RemoteSources } from "../../src/manager/remote-sources.ts";

const COMMIT = "0123456789abcdef0123456789abcdef01234567";

/** Git hosts by a test's script; what git itself does is tested on the real thing. */
export class FakeRemotes implements RemoteSources {
	/** What `pin` rejects with, if anything. */
	refusal: AppError | null = null;
	/** What `open` gives. */
	opened: (source: string, commit: string | null) => OpenedSource = () => {
		throw new AppError("unavailable", "the host does not answer", { field: "source" });
	};
	readonly asked: string[] = [];

	async pin(text: string): Promise<PinnedSource> {
		this.asked.push(text);
		if (this.refusal !== null) throw this.refusal;
		if (!/^(https:\/\/)?[\w-]+(\.[\w-]+)+\//.test(text))
			throw new AppError("invalid_argument", "this is no remote", { field: "source" });
		const [repository = "", ref = "main"] = text.split("@");
		const url = `https://${repository}`;
		return { source: `${url}@${COMMIT}`, url, folder: ".", ref, commit: COMMIT };
	}

	open(source: string, commit: string | null): OpenedSource {
		return this.opened(source, commit);
	}
}
