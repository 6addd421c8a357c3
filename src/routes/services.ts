import type { Handlers } from "../contract/bind.ts";
import { AppError } from "../errors.ts";
import type { Changed, Changes } from "../manager/changes.ts";
import type { Manager } from "../manager/manager.ts";
import type { ServiceName, ServiceRecord } from "../manager/model.ts";
import type { Queries } from "../manager/queries.ts";
import { admitBuild, namespaceOf } from "./caller.ts";
import { changeOptions, tagOf } from "./conditions.ts";
import { defined } from "./defined.ts";
import type { ServerFacts } from "./server.ts";
import { revisionView, ServiceTexts, serviceView, statusOf } from "./service-view.ts";

type ServiceHandlers = Pick<
	Handlers,
	| "createService"
	| "listServices"
	| "getService"
	| "putService"
	| "updateService"
	| "deleteService"
	| "listRevisions"
	| "rollbackService"
	| "cancelRevision"
	| "restartService"
	| "stopService"
	| "startService"
>;

/** `/services`, and the verbs of one service. */
export function serviceHandlers(
	manager: Manager,
	changes: Changes,
	queries: Queries,
	buildsFor: ServerFacts["buildsFor"],
): ServiceHandlers {
	const texts = new ServiceTexts();
	return {
		createService: async ({ request, body, signal }) => {
			admitBuild(request, buildsFor);
			const namespace = namespaceOf(request);
			const done = await changes.create(namespace, defined(body), changeOptions(request, namespace), { signal });
			const { name, version } = done.service;
			const location = `/services/${name}/${encodeURIComponent(version)}`;
			const headers = { ...headersOf(done), location };
			return { status: done.settled === true ? 201 : 202, body: serviceView(done.service), headers };
		},
		listServices: async ({ request, query, reply }) => {
			const namespace = namespaceOf(request);
			const { name, version, status, limit = 100, cursor } = query;
			const filter = defined({ name, version });
			const after = cursor === undefined ? null : decodeCursor(namespace, cursor);
			const page = await queries.list(
				namespace,
				{ ...filter, matches: (service) => status === undefined || statusOf(service) === status },
				limit,
				after,
			);
			const next = page.next === null ? "" : `,"nextCursor":${JSON.stringify(encodeCursor(page.next))}`;
			reply.type("application/json; charset=utf-8");
			reply.send(`{"services":[${page.services.map((service) => texts.of(service)).join(",")}]${next}}`);
			return undefined;
		},
		getService: async ({ request, params }) =>
			answer(200, await queries.get({ namespace: namespaceOf(request), ...params })),
		putService: async ({ request, params, body, signal }) => {
			admitBuild(request, buildsFor);
			const namespace = namespaceOf(request);
			const options = changeOptions(request, namespace);
			return changed(await changes.put({ namespace, ...params }, defined(body), options, { signal }));
		},
		updateService: async ({ request, params, body, signal }) => {
			admitBuild(request, buildsFor);
			const namespace = namespaceOf(request);
			const options = changeOptions(request, namespace);
			return changed(await changes.update({ namespace, ...params }, defined(body), options, { signal }));
		},
		rollbackService: async ({ request, params, body, signal }) => {
			const namespace = namespaceOf(request);
			const options = changeOptions(request, namespace);
			return changed(await changes.rollback({ namespace, ...params }, body.revision, options, { signal }));
		},
		deleteService: async ({ request, params }) => {
			const namespace = namespaceOf(request);
			return answer(202, await manager.remove({ namespace, ...params }, changeOptions(request, namespace)));
		},
		listRevisions: async ({ request, params, query }) => {
			const name = { namespace: namespaceOf(request), ...params };
			const revisions = await queries.revisions(name, query.limit ?? 100, query.before ?? null);
			return { status: 200, body: { revisions: revisions.map(revisionView) } };
		},
		cancelRevision: async ({ request, params, body }) =>
			answer(202, await manager.cancel({ namespace: namespaceOf(request), ...params }, body?.revision)),
		restartService: async ({ request, params }) =>
			answer(202, await manager.restart({ namespace: namespaceOf(request), ...params })),
		stopService: async ({ request, params }) =>
			answer(202, await manager.stop({ namespace: namespaceOf(request), ...params })),
		startService: async ({ request, params }) =>
			answer(202, await manager.start({ namespace: namespaceOf(request), ...params })),
	};
}

function answer<S extends 200 | 202>(status: S, service: ServiceRecord, replayed = false) {
	return { status, body: serviceView(service), headers: headersOf({ service, replayed }) };
}

function changed(done: Changed) {
	return answer(done.revised && done.settled !== true ? 202 : 200, done.service, done.replayed);
}

function headersOf({ service, replayed }: Pick<Changed, "service" | "replayed">): Record<string, string> {
	return { etag: tagOf(service), ...(replayed ? { "idempotency-replayed": "true" } : {}) };
}

/** A cursor names the last service of its page, so that a list is right whatever is added or removed meanwhile. */
function encodeCursor({ name, version }: ServiceName): string {
	return Buffer.from(`${name}!${version}`).toString("base64url");
}

function decodeCursor(namespace: string, cursor: string): ServiceName {
	const [, name, version] = /^([a-z0-9-]{1,63})!([A-Za-z0-9._/-]{1,128})$/.exec(
		Buffer.from(cursor, "base64url").toString(),
	) ?? [undefined, undefined, undefined];
	if (name === undefined || version === undefined)
		throw new AppError("invalid_argument", "the cursor is none of ours", {
			field: "cursor",
			hint: "Send the nextCursor of the page before, or none.",
		});
	return { namespace, name, version };
}
