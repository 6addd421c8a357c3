import t from "tap";
import { isAppError, messageOf } from "../../../src/errors.ts";
import { parseRemote } from "../../../src/sources/remotes/address.ts";
import { DEFAULT_HOSTS, type HostConfig, parseHosts } from "../../../src/sources/remotes/hosts.ts";

const knownHosts: readonly HostConfig[] = [
	{ host: "gitlab.acme.dev:8443", kind: "gitlab" },
	{ host: "plain.acme.dev", kind: "git", allowHttp: true },
	{ host: "forge", kind: "github" },
	...DEFAULT_HOSTS,
];
const parse = (text: string) => parseRemote(text, { knownHosts });

t.test("every way to write a remote", async (t) => {
	const github = { host: "github.com", port: null, repository: "golang/example", folder: ".", ref: null };
	const cases: readonly (readonly [string, object])[] = [
		["github.com/golang/example", github],
		["GitHub.com./golang/example/", github],
		["github.com:443/golang/example", github],
		["https://github.com/golang/example", github],
		["https://github.com/golang/example.git", github],
		["HTTPS://github.com/golang/example.git/", github],
		["https://github.com/golang/example?tab=readme-ov-file#top", github],
		["github.com/golang/example@HEAD", github],
		["github.com/golang/example/hello/reverse", { ...github, folder: "hello/reverse" }],
		["github.com/golang/example.git/hello@v1", { ...github, folder: "hello", ref: "v1" }],
		["github.com/golang/example@feature/one/two", { ...github, ref: "feature/one/two" }],
		["github.com/golang/example/hello@feature/a@b", { ...github, folder: "hello", ref: "feature/a@b" }],
		["github.com/golang/example/@scope/pkg@main", { ...github, folder: "@scope/pkg", ref: "main" }],
		["https://github.com/golang/example/a%40b/c@x", { ...github, folder: "a@b/c", ref: "x" }],
		["https://github.com/golang/example/a%20b", { ...github, folder: "a b" }],
		["https://github.com/golang/example/tree/master", { ...github, ref: "master" }],
		[
			"https://github.com/golang/example/tree/feature/one/two/hello",
			{ ...github, ref: "feature", folder: "one/two/hello", undecided: "ref" },
		],
		["https://github.com/golang/example/commit/0123abc", { ...github, ref: "0123abc" }],
		["https://github.com/golang/example/tree", github],
		["github.com/golang/example/tree@main", { ...github, folder: "tree", ref: "main" }],
		["forge/a/b", { ...github, host: "forge", repository: "a/b" }],
		["gitlab.com/a/b", { ...github, host: "gitlab.com", repository: "a/b" }],
		[
			"gitlab.com/a/b/c/d@x",
			{ host: "gitlab.com", port: null, repository: "a/b", folder: "c/d", ref: "x", undecided: "repository" },
		],
		["gitlab.com/a/b/c.git/d", { host: "gitlab.com", port: null, repository: "a/b/c", folder: "d", ref: null }],
		[
			"https://gitlab.acme.dev:8443/a/b/c/-/tree/one/two?ref_type=heads",
			{ host: "gitlab.acme.dev", port: 8443, repository: "a/b/c", folder: "two", ref: "one", undecided: "ref" },
		],
		["https://bitbucket.org/w/r/src/main", { ...github, host: "bitbucket.org", repository: "w/r", ref: "main" }],
		[
			"https://bitbucket.org/w/r/src/a%2Fb/cmd/",
			{ host: "bitbucket.org", port: null, repository: "w/r", ref: "a/b", folder: "cmd", undecided: "ref" },
		],
		["bitbucket.org/w/r/src/cmd", { ...github, host: "bitbucket.org", repository: "w/r", folder: "src/cmd" }],
		["git.other.dev/one/two", { ...github, host: "git.other.dev", repository: "one/two" }],
		[
			"git.other.dev/one/two/three",
			{ host: "git.other.dev", port: null, repository: "one/two", folder: "three", ref: null, undecided: "repository" },
		],
		["https://git.other.dev/solo.git/x", { ...github, host: "git.other.dev", repository: "solo", folder: "x" }],
		[
			"https://git.other.dev/o/r/src/branch/a/b",
			{ host: "git.other.dev", port: null, repository: "o/r", ref: "a", folder: "b", undecided: "ref" },
		],
		["git.other.dev:8443/o/r", { ...github, host: "git.other.dev", port: 8443, repository: "o/r" }],
		["localhost:3000/o/r", { ...github, host: "localhost", port: 3000, repository: "o/r" }],
		["[::1]:3000/o/r", { ...github, host: "[::1]", port: 3000, repository: "o/r" }],
		["bücher.example/o/r", { ...github, host: "xn--bcher-kva.example", repository: "o/r" }],
		["http://plain.acme.dev/o/r", { ...github, host: "plain.acme.dev", repository: "o/r", scheme: "http" }],
		["https://0x7f.1/o/r", { ...github, host: "127.0.0.1", repository: "o/r" }],
	];
	for (const [text, expected] of cases) t.strictSame(parse(text), expected, text);
});

t.test("what is no remote", async (t) => {
	for (const text of [
		...[
			"",
			".",
			"..",
			"./x",
			"../x/y/z",
			"/a/b/c",
			"~/x",
			"cmd/server",
			"a/b/c",
			"main.go",
			"my.folder",
			"my.folder/x",
		],
		...["source://0190", "C:\\x", "C:/x/y", "\\\\host\\x", "v1.0/a/b/c", "unknown/a/b"],
	])
		t.equal(parse(text), null, text);
});

t.test("remotes that are refused, in words that name the field and hold no secret", async (t) => {
	const cases: readonly (readonly [string, RegExp])[] = [
		["https://user:s3cret@github.com/a/b", /credentials/],
		["https://s3cret@github.com/a/b", /credentials/],
		["https://github.com@evil.example/a/b", /credentials/],
		["https://github.com/a/b?access_token=s3cret", /query/],
		["s3cret@github.com/a/b", /credentials/],
		["git@github.com:a/b.git", /ssh/],
		["github.com:a/b", /ssh/],
		["ssh://git@github.com/a/b", /ssh/],
		["git+ssh://git@github.com/a/b", /ssh/],
		["git://github.com/a/b", /git protocol/],
		["file:///etc", /file/],
		["ftp://github.com/a/b", /ftp/],
		["http://github.com/a/b", /https only/],
		["http://git.other.dev/a/b", /https only/],
		["https://", /no valid host/],
		["https:///a/b", /no valid host/],
		["https://exa mple/a/b", /no valid host/],
		["https://%31%32%37.0.0.1/a/b", /no valid host/],
		["https://1.2.3.4.5/a/b", /no valid host/],
		["github.com", /no repository/],
		["github.com/golang", /no repository/],
		["https://github.com/", /no repository/],
		["github.com/../x", /not the name of a repository/],
		["github.com/a/-b", /not the name of a repository/],
		["https://github.com/a%2Fb/c", /not the name of a repository/],
		["github.com/a/b/../../c", /leads out/],
		["https://github.com/a/b/%2e%2e/c", /leads out/],
		["github.com/a/b/.git/hooks", /cannot exist/],
		["https://github.com/a/b/x%00y", /control character/],
		["https://github.com/a/b/%zz", /escape/],
		["github.com/a/b\\c", /backslash/],
		["github.com/a/b@", /ends in @/],
		["github.com/a/b@--upload-pack=x", /cannot be the name/],
		["github.com/a/b@-x", /cannot be the name/],
		["github.com/a/b@a..b", /cannot be the name/],
		["github.com/a/b@a b", /cannot be the name/],
		["github.com/a/b@a^{commit}", /cannot be the name/],
		["github.com/a/b@x.lock", /cannot be the name/],
		["https://github.com/a/b/blob/main/main.go", /page of something else/],
		["https://gitlab.com/a/b/-/issues", /page of something else/],
		[`github.com/a/b/${"x".repeat(3000)}`, /longer/],
	];
	for (const [text, message] of cases)
		try {
			t.fail(`${text} was read as ${JSON.stringify(parse(text))}`);
		} catch (error) {
			t.ok(
				isAppError(error, "invalid_argument") && error.field === "source" && error.hint !== undefined,
				text.slice(0, 80),
			);
			t.match(messageOf(error), message, text.slice(0, 80));
			t.notMatch(JSON.stringify([messageOf(error), isAppError(error) && error.hint]), /s3cret/, text.slice(0, 80));
		}
});

t.test("an operator's file of hosts", async (t) => {
	t.strictSame(
		parseHosts(
			'[{"host":"Git.Acme.dev:443","kind":"gitlab","token":"s3cret","api":"https://git.acme.dev/api/v4/"},{"host":"10.0.0.7:3000","kind":"git","allowPrivate":true}]',
		),
		[
			{
				host: "git.acme.dev",
				kind: "gitlab",
				api: "https://git.acme.dev/api/v4",
				token: "s3cret",
				allowPrivate: false,
				allowHttp: false,
			},
			{ host: "10.0.0.7:3000", kind: "git", allowPrivate: true, allowHttp: false },
		],
	);
	const cases: readonly (readonly [string, string])[] = [
		['[{"token":"s3cret"', "hosts"],
		["{}", "hosts"],
		["[7]", "hosts/0"],
		['[{"kind":"git","token":"s3cret"}]', "hosts/0/host"],
		['[{"host":"https://x","kind":"git"}]', "hosts/0/host"],
		['[{"host":"s3cret@x","kind":"git"}]', "hosts/0/host"],
		['[{"host":"x"}]', "hosts/0/kind"],
		['[{"host":"x","kind":"svn"}]', "hosts/0/kind"],
		['[{"host":"x","kind":"git"},{"host":"y","kind":"git","token":7}]', "hosts/1/token"],
		['[{"host":"x","kind":"git","token":"s3cret\\nHost: y"}]', "hosts/0/token"],
		['[{"host":"x","kind":"git","allowPrivate":"yes"}]', "hosts/0/allowPrivate"],
		['[{"host":"x","kind":"git","tokn":"s3cret"}]', "hosts/0/tokn"],
		['[{"host":"x","kind":"git","api":"https://x"}]', "hosts/0/api"],
		['[{"host":"x","kind":"gitlab","api":"http://x"}]', "hosts/0/api"],
		['[{"host":"x","kind":"gitlab","api":"https://u:s3cret@x"}]', "hosts/0/api"],
		['[{"host":"x","kind":"git"},{"host":"X.","kind":"git"}]', "hosts/1/host"],
	];
	for (const [json, field] of cases)
		try {
			parseHosts(json);
			t.fail(`${json} was accepted`);
		} catch (error) {
			t.ok(isAppError(error, "invalid_argument"), json);
			t.equal(isAppError(error) ? error.field : undefined, field, json);
			t.notMatch(messageOf(error), /s3cret/, json);
		}
});
