// Made from openapi.yaml by scripts/generate-cli.ts; not to be edited.

export type Operation = {
	readonly command: string;
	readonly operation: string;
	readonly method: string;
	/** With `{name}` where an argument goes. */
	readonly path: string;
	readonly summary: string;
	readonly description: string;
	readonly hidden?: boolean;
	readonly output?: "service" | "revisions" | "session";
	/** What is said when it has worked. */
	readonly done?: string;
	/** The state that is waited for before that; `verdict`: a new revision is followed as `update` does. */
	readonly wait?: "gone" | "Stopped" | "Running" | "verdict";
	readonly arguments: readonly {
		readonly name: string;
		readonly in: "path" | "body";
		readonly type: "integer" | "string";
		readonly required: boolean;
		readonly description: string;
	}[];
	readonly options: readonly {
		readonly name: string;
		readonly flag: string;
		readonly key: string;
		readonly in: "query" | "body";
		readonly type: "integer" | "string";
		readonly description: string;
	}[];
};

export const CONTRACT_VERSION = "0.1.0";

export const OPERATIONS: readonly Operation[] = [
	{
		"command": "services",
		"operation": "listServices",
		"method": "GET",
		"path": "/services",
		"summary": "List services",
		"description": "Ordered by name and version. Read on with `cursor` while the answer has a `nextCursor`.",
		"hidden": true,
		"arguments": [],
		"options": [
			{
				"name": "name",
				"flag": "name",
				"key": "name",
				"in": "query",
				"type": "string",
				"description": "Only this name."
			},
			{
				"name": "version",
				"flag": "version",
				"key": "version",
				"in": "query",
				"type": "string",
				"description": "Only this version."
			},
			{
				"name": "status",
				"flag": "status",
				"key": "status",
				"in": "query",
				"type": "string",
				"description": "Only services in this state."
			},
			{
				"name": "limit",
				"flag": "limit",
				"key": "limit",
				"in": "query",
				"type": "integer",
				"description": "At most so many entries."
			},
			{
				"name": "cursor",
				"flag": "cursor",
				"key": "cursor",
				"in": "query",
				"type": "string",
				"description": "The `nextCursor` of the page before."
			}
		]
	},
	{
		"command": "show",
		"operation": "getService",
		"method": "GET",
		"path": "/services/{name}/{version}",
		"summary": "Show a service",
		"description": "",
		"output": "service",
		"arguments": [
			{
				"name": "name",
				"in": "path",
				"type": "string",
				"required": true,
				"description": "The service's name."
			},
			{
				"name": "version",
				"in": "path",
				"type": "string",
				"required": false,
				"description": "The service's version, percent-encoded where it holds `/`."
			}
		],
		"options": []
	},
	{
		"command": "kill",
		"operation": "deleteService",
		"method": "DELETE",
		"path": "/services/{name}/{version}",
		"summary": "Stop a service and remove it with its builds and logs",
		"description": "",
		"output": "service",
		"done": "{name}:{version} is gone",
		"wait": "gone",
		"arguments": [
			{
				"name": "name",
				"in": "path",
				"type": "string",
				"required": true,
				"description": "The service's name."
			},
			{
				"name": "version",
				"in": "path",
				"type": "string",
				"required": false,
				"description": "The service's version, percent-encoded where it holds `/`."
			}
		],
		"options": []
	},
	{
		"command": "revisions",
		"operation": "listRevisions",
		"method": "GET",
		"path": "/services/{name}/{version}/revisions",
		"summary": "List a service's revisions, newest first",
		"description": "",
		"output": "revisions",
		"arguments": [
			{
				"name": "name",
				"in": "path",
				"type": "string",
				"required": true,
				"description": "The service's name."
			},
			{
				"name": "version",
				"in": "path",
				"type": "string",
				"required": false,
				"description": "The service's version, percent-encoded where it holds `/`."
			}
		],
		"options": [
			{
				"name": "limit",
				"flag": "limit",
				"key": "limit",
				"in": "query",
				"type": "integer",
				"description": "At most so many entries."
			},
			{
				"name": "before",
				"flag": "before",
				"key": "before",
				"in": "query",
				"type": "integer",
				"description": "Only revisions with a smaller number."
			}
		]
	},
	{
		"command": "rollback",
		"operation": "rollbackService",
		"method": "POST",
		"path": "/services/{name}/{version}/rollback",
		"summary": "Go back to an earlier revision",
		"description": "Makes a new revision with the build, arguments and environment of an earlier one; nothing is rebuilt. The builds of\nthe newest revisions are kept; 410 where it is not. In profile `dev` there are no builds: the revision's source is\nprepared again. The sources of the newest revisions that were run are kept; 410 where it is not.",
		"output": "service",
		"wait": "verdict",
		"arguments": [
			{
				"name": "name",
				"in": "path",
				"type": "string",
				"required": true,
				"description": "The service's name."
			},
			{
				"name": "revision",
				"in": "body",
				"type": "integer",
				"required": true,
				"description": "The revision to go back to."
			},
			{
				"name": "version",
				"in": "path",
				"type": "string",
				"required": false,
				"description": "The service's version, percent-encoded where it holds `/`."
			}
		],
		"options": []
	},
	{
		"command": "cancel",
		"operation": "cancelRevision",
		"method": "POST",
		"path": "/services/{name}/{version}/cancel",
		"summary": "Cancel a revision that is on its way",
		"description": "The build is ended and the revision becomes Error(cancelled); what serves goes on. 409 where nothing is on its way.",
		"output": "service",
		"done": "{name}:{version}: cancelled",
		"arguments": [
			{
				"name": "name",
				"in": "path",
				"type": "string",
				"required": true,
				"description": "The service's name."
			},
			{
				"name": "version",
				"in": "path",
				"type": "string",
				"required": false,
				"description": "The service's version, percent-encoded where it holds `/`."
			}
		],
		"options": [
			{
				"name": "revision",
				"flag": "revision",
				"key": "revision",
				"in": "body",
				"type": "integer",
				"description": "Only where this is the revision on its way; else 409."
			}
		]
	},
	{
		"command": "restart",
		"operation": "restartService",
		"method": "POST",
		"path": "/services/{name}/{version}/restart",
		"summary": "Restart the live revision, without a new one and without a gap",
		"description": "",
		"output": "service",
		"done": "{name}:{version} is restarting",
		"arguments": [
			{
				"name": "name",
				"in": "path",
				"type": "string",
				"required": true,
				"description": "The service's name."
			},
			{
				"name": "version",
				"in": "path",
				"type": "string",
				"required": false,
				"description": "The service's version, percent-encoded where it holds `/`."
			}
		],
		"options": []
	},
	{
		"command": "stop",
		"operation": "stopService",
		"method": "POST",
		"path": "/services/{name}/{version}/stop",
		"summary": "Stop a service and keep everything",
		"description": "Cancels a revision on its way. Lasts until `start`, over restarts of the server.",
		"output": "service",
		"done": "{name}:{version} is stopped",
		"wait": "Stopped",
		"arguments": [
			{
				"name": "name",
				"in": "path",
				"type": "string",
				"required": true,
				"description": "The service's name."
			},
			{
				"name": "version",
				"in": "path",
				"type": "string",
				"required": false,
				"description": "The service's version, percent-encoded where it holds `/`."
			}
		],
		"options": []
	},
	{
		"command": "start",
		"operation": "startService",
		"method": "POST",
		"path": "/services/{name}/{version}/start",
		"summary": "Start a stopped service again",
		"description": "",
		"output": "service",
		"done": "{name}:{version} is running",
		"wait": "Running",
		"arguments": [
			{
				"name": "name",
				"in": "path",
				"type": "string",
				"required": true,
				"description": "The service's name."
			},
			{
				"name": "version",
				"in": "path",
				"type": "string",
				"required": false,
				"description": "The service's version, percent-encoded where it holds `/`."
			}
		],
		"options": []
	},
	{
		"command": "whoami",
		"operation": "getSession",
		"method": "GET",
		"path": "/session",
		"summary": "Who am I, and what does this server take",
		"description": "Checks a token without doing anything. The CLI asks before it uploads.",
		"output": "session",
		"arguments": [],
		"options": []
	}
];
