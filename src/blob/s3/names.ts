/** The longest part between two slashes: gateways that keep objects as files allow 255 bytes for one name. */
const PIECE = 200;

/**
 * The name of a key among objects. Such names sort as their keys do, and none is the folder of another, which a gateway that keeps
 * objects as files could not store. Characters that no key has do it: `!` ends a name and sorts before all that a key may have;
 * `*` and `=` stand where a long segment is cut, the one that sorts as what follows does in relation to a slash.
 */
export function encodeKey(key: string, piece = PIECE): string {
	return `${encodePrefix(key, piece)}!`;
}

/** What the names of all keys with that prefix start with, and no others. */
export function encodePrefix(prefix: string, piece = PIECE): string {
	return prefix
		.split("/")
		.map((segment) => cut(segment, piece))
		.join("/");
}

/** Undefined for what is no name of a key. */
export function decodeKey(name: string): string | undefined {
	return name.endsWith("!") ? name.slice(0, -1).replaceAll(/[*=]\/=/g, "") : undefined;
}

function cut(segment: string, piece: number): string {
	let name = segment.slice(0, piece);
	for (let at = piece; at < segment.length; at += piece) {
		const next = segment.slice(at, at + piece);
		name += `${/^[-.]/.test(next) ? "*" : "="}/=${next}`;
	}
	return name;
}
