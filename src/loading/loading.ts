import path from "node:path";
import type { FastifyServerOptions } from "fastify";
import { AppError } from "../errors.ts";
import type { Queries } from "../manager/queries.ts";
import { Authority } from "./authority.ts";
import { Credentials } from "./credentials.ts";
import { createLoadingServer, type LoadingLimits } from "./listener.ts";
import { listen, type PortOptions } from "./port.ts";

export type LoadingOptions = {
	/** Where its authority, its secret and its port are kept. */
	readonly folder: string;
	/** DNS names and IP addresses at which containers reach this machine. All are in the certificate, the first is in the URL. */
	readonly hosts: readonly string[];
	/** Where to listen. By default at the first host, and a port that is chosen once and kept; port 0 is such a port too. */
	readonly listen?: { readonly host: string; readonly port: number } | null;
	/** The https URL by which containers reach the listener, where that is not where it listens. */
	readonly url?: string | null;
	readonly log: NonNullable<FastifyServerOptions["loggerInstance"]>;
	readonly limits?: Partial<LoadingLimits>;
	readonly port?: PortOptions;
	readonly now?: () => Date;
	/** Milliseconds between two looks at whether the certificate is to be renewed. Default an hour. */
	readonly renewalMs?: number;
};

/** What a container is told so that it gets its build. */
export type LoadingPass = {
	/** The whole URL of the build. */
	readonly url: string;
	readonly token: string;
	/** PEM. */
	readonly ca: string;
};

export type Loading = AsyncDisposable & {
	/** Without a slash at its end. */
	readonly url: string;
	/** PEM: who vouches for that URL. May be another one after years. */
	readonly ca: string;
	token(service: { readonly namespace: string; readonly id: string }, revision: number): string;
	pass(
		service: { readonly namespace: string; readonly id: string; readonly name: string; readonly version: string },
		revision: number,
	): LoadingPass;
	/** Until this is called, requests are answered with `unavailable`. */
	serve(queries: Pick<Queries, "byId" | "buildOf">): void;
	/** Cuts downloads: a loader goes on where it was once the server is back. */
	close(): Promise<void>;
};

const RENEWAL_MS = 3600 * 1000;

/**
 * How containers get their builds: a second listener with a certificate of its own authority. It listens when this resolves.
 * Rejects with `internal` where what is kept is damaged, with `unavailable` where it cannot listen there, and with
 * `invalid_argument` where a host is neither a DNS name nor an IP address.
 */
export async function openLoading(options: LoadingOptions): Promise<Loading> {
	const { folder, log } = options;
	const given = options.url === null || options.url === undefined ? undefined : new URL(options.url);
	const at = options.listen?.host ?? options.hosts[0];
	const [host = at] = options.hosts;
	if (at === undefined || host === undefined || (given === undefined && isAny(host)))
		throw new AppError("invalid_argument", "it is not known where containers reach this server", {
			field: "loaderAddress",
			hint: "Give --loader-address, and --loader-url where that is not one that containers reach.",
		});
	const names = [host, at, ...options.hosts, ...(given === undefined ? [] : [given.hostname])];
	const certified = [...new Set(names.map((name) => name.replace(/^\[|\]$/g, "")))].filter((name) => !isAny(name));

	const authority = await Authority.open(folder, options.now);
	const credentials = await Credentials.open(path.join(folder, "secret"));
	let identity = await authority.issue(certified);
	let queries: Pick<Queries, "byId" | "buildOf"> | null = null;
	const { limits = {} } = options;
	const listener = await createLoadingServer({ queries: () => queries, credentials, identity, log, limits });
	const file = path.join(folder, "port");
	let port: number;
	try {
		port = await listen(listener.server, { host: at, port: options.listen?.port || null, file }, options.port);
	} catch (error) {
		await listener.app.close();
		throw error;
	}

	const renew = async () => {
		if (!identity.isDue()) return;
		identity = await authority.issue(certified);
		listener.present(identity);
		log.info("renewed the certificate at which containers get their builds");
	};
	let renewing: Promise<void> = Promise.resolve();
	const timer = setInterval(() => {
		renewing = renewing
			.then(renew)
			.catch((error: unknown) => log.error({ err: error }, "a certificate could not be renewed"));
	}, options.renewalMs ?? RENEWAL_MS).unref();

	const url = given === undefined ? `https://${inUrl(host)}:${port}` : given.href.replace(/\/+$/, "");
	const token: Loading["token"] = ({ namespace, id }, revision) => credentials.issue(namespace, { id, revision });
	let closing: Promise<void> | undefined;
	const close = () => {
		clearInterval(timer);
		closing ??= renewing.then(() => listener.close());
		return closing;
	};
	return {
		url,
		get ca() {
			return authority.certificate;
		},
		token,
		pass: (service, revision) => ({
			url: `${url}/builds/${encodeURIComponent(service.name)}/${encodeURIComponent(service.version)}?revision=${revision}`,
			token: token(service, revision),
			ca: authority.certificate,
		}),
		serve: (given) => {
			queries = given;
		},
		close,
		[Symbol.asyncDispose]: close,
	};
}

/** Where one may listen, but nobody can be reached. */
function isAny(host: string): boolean {
	return host === "0.0.0.0" || host === "::";
}

function inUrl(host: string): string {
	return host.includes(":") ? `[${host}]` : host;
}
