import { join } from "node:path";

/**
 * Where a language's builders keep what a namespace's builds share. Each namespace has its own, so that none can put
 * anything into another's. The namespace `default` has the place that the caches had before there were namespaces.
 */
export function cacheFolderOf(cacheFolder: string, namespace: string, language: string): string {
	if (namespace === "default") return join(cacheFolder, language);
	// Names are checked where they come in; here a dot must never lead out.
	const name = encodeURIComponent(namespace).replace(/^\.+$/, (dots) => "%2E".repeat(dots.length));
	// Below a folder that is no language's: a namespace may have the name of one, and what is in that is the default's to write.
	return join(cacheFolder, "namespaces", name, language);
}
