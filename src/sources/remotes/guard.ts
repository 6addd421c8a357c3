import { lookup as systemLookup } from "node:dns/promises";
import { isIP } from "node:net";
import ipaddr from "ipaddr.js";
import { AppError, isAppError, messageOf, unlessAborted } from "../../errors.ts";
import { authority, type HostConfig, type Origin, ownerOf } from "./hosts.ts";

/** All addresses of a name. */
export type Lookup = (host: string) => Promise<readonly string[]>;

/** Public by their range, yet they answer only inside a cloud's own machine (Azure's host agent). */
const METADATA = new Set(["168.63.129.16"]);

/** True for what anybody on the internet may reach: global unicast, without any form that carries another address inside. */
export function isPublicAddress(text: string): boolean {
	if (!ipaddr.isValid(text)) return false;
	const address = ipaddr.parse(text);
	if (address.range() !== "unicast") return false;
	if (address instanceof ipaddr.IPv6) {
		// Only 2000::/3 is given out; the rest holds IPv4-compatible addresses and whatever a later RFC invents.
		return ((address.parts[0] ?? 0) & 0xe000) === 0x2000;
	}
	return !METADATA.has(address.toString());
}

/**
 * Decides which addresses an outgoing connection may go to. Nothing else may choose them: what it returns is what is
 * connected to, so that a second DNS answer has no say.
 */
export class AddressGuard {
	readonly #hosts: readonly HostConfig[];
	readonly #lookup: Lookup;

	constructor(hosts: readonly HostConfig[], lookup: Lookup = resolveAll) {
		this.#hosts = hosts;
		this.#lookup = lookup;
	}

	/**
	 * The addresses of an origin, at least one. Rejects with `permission_denied` (field `source`) where any of them is not
	 * public and the operator does not allow this host and port, with `unavailable` where the name cannot be resolved.
	 */
	async addresses(origin: Origin, signal: AbortSignal): Promise<readonly string[]> {
		const host = origin.host.replace(/^\[|\]$/g, "").replace(/\.$/, "");
		const addresses = await this.#resolve(host, signal);
		if (ownerOf(this.#hosts, origin)?.allowPrivate === true) return addresses;
		const isLocalName = host === "localhost" || host.endsWith(".localhost");
		if (isLocalName || !addresses.every(isPublicAddress)) throw forbidden(origin);
		return addresses;
	}

	async #resolve(host: string, signal: AbortSignal): Promise<readonly string[]> {
		// Every spelling of an address that some resolver would take for one: decimal, octal, hexadecimal, short.
		if (isIP(host) === 0 && /(^|\.)(0x[0-9a-f]*|\d+)$/i.test(host)) {
			if (!ipaddr.IPv4.isValid(host))
				throw new AppError("invalid_argument", `${host} is not a host`, { field: "source" });
			return [ipaddr.IPv4.parse(host).toString()];
		}
		if (isIP(host) !== 0) return [host];
		let addresses: readonly string[];
		try {
			addresses = await unlessAborted(this.#lookup(host), signal);
		} catch (error) {
			if (isAppError(error)) throw error;
			throw new AppError("unavailable", `the name ${host} cannot be resolved (${messageOf(error)})`, {
				field: "source",
				cause: error,
			});
		}
		if (addresses.length === 0 || addresses.some((address) => isIP(address) === 0))
			throw new AppError("unavailable", `the name ${host} has no address`, { field: "source" });
		return addresses;
	}
}

function forbidden(origin: Origin): AppError {
	return new AppError(
		"permission_denied",
		`the address of ${authority(origin)} is not public; this server does not connect to such addresses`,
		{ field: "source", hint: "An operator can allow this host with allowPrivate in the file of git hosts." },
	);
}

async function resolveAll(host: string): Promise<readonly string[]> {
	return (await systemLookup(host, { all: true })).map(({ address }) => address);
}
