import t from "tap";
import { loadConfig } from "../../src/config.ts";

t.test("where containers get their builds can be set, and says what is wrong", async (t) => {
	const plain = loadConfig([], {});
	t.equal(plain.loaderAddress, null);
	t.equal(plain.loaderUrl, null);
	const env = { RUNTIME_LOADER_ADDRESS: "[fd00::1]:8444", RUNTIME_LOADER_URL: "https://builds.example:8444/base/" };
	const given = loadConfig([], env);
	t.same(given.loaderAddress, { host: "fd00::1", port: 8444 });
	t.equal(given.loaderUrl, "https://builds.example:8444/base");
	t.same(loadConfig(["--loader-address", "10.0.0.1:0"], env).loaderAddress, { host: "10.0.0.1", port: 0 });
	for (const address of ["10.0.0.1", ":8444", "10.0.0.1:65536", "10.0.0.1:port", "a b:1"])
		t.throws(
			() => loadConfig(["--loader-address", address], {}),
			{ code: "invalid_argument", message: /--loader-address must be HOST:PORT/ },
			address,
		);
	for (const url of ["builds.example", "http://builds.example", "https://u:p@builds.example", "https://b.example/?a=1"])
		t.throws(
			() => loadConfig([], { RUNTIME_LOADER_URL: url }),
			{ code: "invalid_argument", message: /RUNTIME_LOADER_URL must be an https URL/ },
			url,
		);
});
