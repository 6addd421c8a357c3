import type { Test } from "tap";
import { Dockerd } from "../harness/dockerd.ts";

/** The socket of a Docker engine of the test's own, gone with the test. RUNTIME_TEST_DOCKER names one that runs already. */
export async function dockerSocket(t: Test): Promise<string> {
	const running = process.env.RUNTIME_TEST_DOCKER;
	if (running !== undefined) return running;
	const dockerd = await Dockerd.start();
	t.teardown(() => dockerd.stop());
	return dockerd.socket;
}
