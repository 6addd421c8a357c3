import type { Handlers } from "../contract/bind.ts";
import { AppError } from "../errors.ts";
import type { Manager } from "../manager/manager.ts";
import type { ServiceName } from "../manager/model.ts";
import { namespaceOf } from "./caller.ts";
import { defined } from "./defined.ts";
import { revisionView, serviceView, statusOf } from "./service-view.ts";

type ServiceHandlers = Pick<
	Handlers,
	| "createService"
	| "listServices"
	| "getService"
	| "putService"
	| "updateService"
	| "deleteService"
	| "listRevisions"
	| "cancelRevision"
	| "restartService"
	| "stopService"
	| "startService"
>;

/** `/services`, and the verbs of one service. */
export function serviceHandlers(manager: Manager): ServiceHandlers {
	return {
		createService: async ({ request, body }) => {
			const service = await manager.create(namespaceOf(request), defined(body));
			const location = `/services/${service.name}/${encodeURIComponent(service.version)}`;
			return { status: 202, body: serviceView(service), headers: { location } };
		},
		listServices: async ({ request, query }) => {
			const namespace = namespaceOf(request);
			const { name, version, status, limit = 100, cursor } = query;
			const filter = defined({ name, version });
			const after = cursor === undefined ? null : decodeCursor(namespace, cursor);
			const page = await manager.list(
				namespace,
				{ ...filter, matches: (service) => status === undefined || statusOf(service) === status },
				limit,
				after,
			);
			return {
				status: 200,
				body: {
					services: page.services.map(serviceView),
					...(page.next === null ? {} : { nextCursor: encodeCursor(page.next) }),
				},
			};
		},
		getService: async ({ request, params }) => ({
			status: 200,
			body: serviceView(await manager.get({ namespace: namespaceOf(request), ...params })),
		}),
		putService: async ({ request, params, body }) =>
			changed(await manager.put({ namespace: namespaceOf(request), ...params }, defined(body))),
		updateService: async ({ request, params, body }) =>
			changed(await manager.update({ namespace: namespaceOf(request), ...params }, defined(body))),
		deleteService: async ({ request, params }) => ({
			status: 202,
			body: serviceView(await manager.remove({ namespace: namespaceOf(request), ...params })),
		}),
		listRevisions: async ({ request, params, query }) => {
			const name = { namespace: namespaceOf(request), ...params };
			const revisions = await manager.revisions(name, query.limit ?? 100, query.before ?? null);
			return { status: 200, body: { revisions: revisions.map(revisionView) } };
		},
		cancelRevision: async ({ request, params, body }) => ({
			status: 202,
			body: serviceView(await manager.cancel({ namespace: namespaceOf(request), ...params }, body?.revision)),
		}),
		restartService: async ({ request, params }) => ({
			status: 202,
			body: serviceView(await manager.restart({ namespace: namespaceOf(request), ...params })),
		}),
		stopService: async ({ request, params }) => ({
			status: 202,
			body: serviceView(await manager.stop({ namespace: namespaceOf(request), ...params })),
		}),
		startService: async ({ request, params }) => ({
			status: 202,
			body: serviceView(await manager.start({ namespace: namespaceOf(request), ...params })),
		}),
	};
}

function changed({ service, revised }: Awaited<ReturnType<Manager["put"]>>) {
	return { status: revised ? (202 as const) : (200 as const), body: serviceView(service) };
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
