import t from "tap";
import { blobSuite } from "../conformance/blob.ts";
import { MemoryBlobStore } from "../conformance/memory-blob.ts";

blobSuite(
	t,
	"memory",
	async () => {
		const store = new MemoryBlobStore();
		return { store, cut: async (size) => store.cut(size) };
	},
	{ maxGrowth: Number.POSITIVE_INFINITY },
);
