// Hello is a small web service. Change the greeting, run `runtime update`, and see it change at the same URL.
import { createServer } from "node:http";

const greeting: string = "Hello from Runtime Builds";

const server = createServer((request, response) => {
	console.log(`${request.method} ${request.url}`);
	response.setHeader("content-type", "text/plain; charset=utf-8").end(`${greeting}\n`);
});

server.listen(Number(process.env.PORT), process.env.HOST, () => {
	console.log("listening on", server.address());
});

process.once("SIGTERM", () => {
	server.close();
	server.closeIdleConnections();
});
