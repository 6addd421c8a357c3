import t from "tap";
import { runtimeSuite } from "../../conformance/runtime.ts";
import { Dockerd } from "../../harness/dockerd.ts";
import { harness, openSite } from "./docker-harness.ts";

const skip = await Dockerd.missing();
if (skip !== false) t.plan(0, skip);
else {
	const site = await openSite(t);
	runtimeSuite(t, (t) => harness(t, site));
}
