import t from "tap";
import { blobSuite } from "../conformance/blob.ts";
import { MemoryBlobStore } from "../conformance/memory-blob.ts";

blobSuite(t, "memory", async () => ({ store: new MemoryBlobStore() }), { maxGrowth: Number.POSITIVE_INFINITY });
