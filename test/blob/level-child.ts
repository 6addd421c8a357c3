/** A process to be killed. `level-child.ts open|write FOLDER`; prints one line for each thing that it was told. */
import { LevelBlobStore } from "../../src/blob/level.ts";
import { isAppError } from "../../src/errors.ts";
import { never, pattern, reusedChunks, text } from "../conformance/blob.ts";

const [mode, folder = ""] = process.argv.slice(2);

function report(error: unknown): void {
	console.log(isAppError(error) ? `failed ${error.code} ${error.message}` : `failed ${String(error)}`);
}

try {
	await using store = await LevelBlobStore.open(folder);
	console.log("opened");
	if (mode === "write") {
		// The test's failpoints hit the second blob: this one has been acknowledged by then.
		await store.put("kept", text("acknowledged"), never());
		console.log("stored kept");
		await store.put("victim", reusedChunks(pattern(3_500_000), 65_536), never());
		console.log("stored victim");
	}
} catch (error) {
	report(error);
}
