import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import t, { type Test } from "tap";
import { dataFolder, TestServer, until } from "../harness/server.ts";

/** More than what the kernel holds for a connection whose other side does not read. */
const BIG = 24 * 1024 ** 2;
/** The server's own limit is 32 s; without one it would wait for ever, and so for longer than this. */
const LIMIT_MS = 90_000;

const PROGRAM = {
	"go.mod": "module example.com/big\n\ngo 1.21\n",
	"main.go": `package main

import (
	_ "embed"
	"net/http"
	"os"
)

//go:embed big.bin
var big []byte

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { w.Write(big[:1]) })
	panic(http.ListenAndServe(os.Getenv("HOST")+":"+os.Getenv("PORT"), nil))
}
`,
};

/** A connection on which this request was begun; it is nobody's business to read or to end it. */
async function begin(t: Test, server: TestServer, head: readonly string[], body: Uint8Array): Promise<Socket> {
	const { hostname, port } = new URL(server.url);
	const socket = connect({ host: hostname, port: Number(port) });
	t.teardown(() => socket.destroy());
	// How it is cut off is the server's affair.
	socket.on("error", () => undefined);
	await once(socket, "connect");
	socket.write(`${[...head, `Host: ${hostname}`, `Authorization: Bearer ${server.token}`].join("\r\n")}\r\n\r\n`);
	socket.write(body);
	return socket;
}

t.test(
	"a shutdown is held up neither by a download nobody reads nor by half an upload",
	{ timeout: 280_000 },
	async (t) => {
		const dataDir = await dataFolder(t);
		const server = await TestServer.start({ dataDir, args: ["--stop-services"] });
		t.teardown(() => server.kill());
		const { api } = server;
		// Latin letters, so that the archive's own texts stay as they are; noise, so that they take their room.
		const noise = randomBytes((BIG * 3) / 4).toString("base64");
		const source = await api.uploadFiles({ ...PROGRAM, "big.bin": noise });
		await api.create({ name: "big", source });
		const service = await api.settled("big");
		t.equal(service.status, "Running");
		t.ok((service.build?.size ?? 0) > BIG);

		const reader = await begin(t, server, ["GET /builds/big/latest HTTP/1.1"], new Uint8Array());
		const [first] = await once(reader, "data");
		reader.pause();
		t.match(String(first), /^HTTP\/1\.1 200/, "the download is under way");
		const sender = await begin(
			t,
			server,
			[
				"POST /sources HTTP/1.1",
				"Content-Type: multipart/form-data; boundary=x",
				`Content-Length: ${BIG}`,
				"Expect: 100-continue",
			],
			Buffer.from('--x\r\nContent-Disposition: form-data; name="archive"; filename="a.tar.gz"\r\n\r\n1234'),
		);
		const [go] = await once(sender, "data");
		t.match(String(go), /^HTTP\/1\.1 100/, "the upload is under way");
		let gaveUp = false;
		reader.once("close", () => {
			gaveUp = true;
		});

		const begun = Date.now();
		server.child.kill("SIGTERM");
		await until(() => server.child.exitCode !== null || server.child.signalCode !== null, "the server ends", LIMIT_MS);
		t.comment(`it took ${((Date.now() - begun) / 1000).toFixed(1)} s`);
		t.same([server.child.exitCode, server.child.signalCode], [0, null], "in good order");
		t.equal(gaveUp, false, "the reader had not given up by then");

		const again = await TestServer.start({ dataDir, args: ["--stop-services"] });
		t.teardown(() => again.stop());
		t.match(await again.api.settled("big"), { status: "Running", revision: 1 });
	},
);
