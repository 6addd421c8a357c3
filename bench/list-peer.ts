/** The peer of the list bench: a Fastify route that reads the same LevelDB range and sends the stored JSON as it is. */
import fastify from "fastify";
import { Level } from "level";

const [folder = ""] = process.argv.slice(2);
const level = new Level<string, string>(folder, { createIfMissing: false });
await level.open();
const app = fastify();
/** Each stored value begins with its checksum. */
const CHECKSUM = 8;

app.get<{ Querystring: { limit: number; after?: string } }>(
	"/services",
	{
		schema: {
			querystring: { type: "object", properties: { limit: { type: "integer" }, after: { type: "string" } } },
		},
	},
	async (request, reply) => {
		const { limit, after = "" } = request.query;
		const range = { gt: `service!default!${after}`, lt: 'service!default"', limit };
		const entries = await level.iterator(range).all();
		const last = entries.at(-1)?.[0].slice("service!default!".length);
		const next = entries.length === limit ? `,"next":${JSON.stringify(last)}` : "";
		reply.type("application/json");
		return `{"services":[${entries.map(([, value]) => value.slice(CHECKSUM)).join(",")}]${next}}`;
	},
);
process.stdout.write(`ready at ${await app.listen({ host: "127.0.0.1", port: 0 })}\n`);
process.on("SIGTERM", () => {
	app
		.close()
		.then(() => level.close())
		.then(
			() => process.exit(0),
			(error: unknown) => {
				process.stderr.write(`${error}\n`);
				process.exit(1);
			},
		);
});
