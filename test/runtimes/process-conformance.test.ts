import t from "tap";
import { runtimeSuite } from "../conformance/runtime.ts";
import { harness } from "./process-harness.ts";

runtimeSuite(t, (t) => harness(t));
