import { cpus, homedir, totalmem } from "node:os";
import path from "node:path";
import {
	bytes,
	checksums,
	cores,
	flag,
	httpsUrl,
	matching,
	optional,
	place,
	portRange,
	type Setting,
	sandboxChoice,
	seconds,
	setting,
	text,
	whole,
} from "./setting-kinds.ts";

/** Every setting of the server, in the order of the help: how it is written, what it is without a word, what it is for. */
export const SETTINGS = {
	profile: setting(
		matching(/^(local|dev|docker)$/, "must be local, dev or docker", "NAME"),
		"local",
		"what it is made of: local builds and runs processes; docker builds and runs containers; dev runs source in place, and answers when it runs",
	),
	address: setting(
		matching(/^(\[[0-9a-f:]+\]|[^:\s]+):\d{1,5}$/i, "must be HOST:PORT", "HOST:PORT"),
		"127.0.0.1:8080",
		"where to listen; port 0 picks a free one",
	),
	dataDir: setting(
		text,
		() => path.join(process.env.XDG_DATA_HOME ?? path.join(homedir(), ".local", "share"), "runtime-builds"),
		"where everything is kept",
	),
	cacheDir: setting(
		optional,
		null,
		"where builders keep downloads and compiled packages; by default in the data folder",
	),
	tlsCert: setting(optional, null, "file with the certificate chain, PEM"),
	tlsKey: setting(optional, null, "file with the certificate's private key, PEM"),
	insecureHttp: setting(flag, false, "listen beyond this machine without TLS all the same"),
	stopServices: setting(flag, false, "when the server ends, end the services too"),
	logLevel: setting(
		matching(/^(debug|info|warn|error|silent)$/, "must be debug, info, warn, error or silent", "LEVEL"),
		"warn",
		"how much the server says of itself: debug, info, warn, error, silent",
	),
	maxSourceBytes: setting(bytes, 2 * 1024 ** 3, "the largest archive that is taken"),
	maxUnpackedBytes: setting(bytes, 4 * 1024 ** 3, "the largest tree that an archive may unpack to"),
	maxSourceFiles: setting(whole(1, 10_000_000, "COUNT"), 100_000, "the most entries that an archive may hold"),
	builds: setting(whole(1, 256, "COUNT"), () => cpus().length, "builds at the same time; as many as cores by default"),
	buildTimeout: setting(seconds(1, 86_400), 15 * 60, "how long a build may take"),
	synchronousTimeout: setting(
		seconds(1, 86_400),
		5 * 60,
		"profile dev: how long a request may take to run its service",
	),
	maxBuildLogBytes: setting(bytes, 16 * 1024 ** 2, "the most that is kept of one build's log"),
	sandbox: setting(
		sandboxChoice,
		"auto",
		"what builds run in: bubblewrap, container (profile docker), none; auto is the first that works; what is named must work",
	),
	openBuilds: setting(flag, false, "without a sandbox, build for others than the administrator all the same"),
	buildMemory: setting(whole(64, 16_777_216, "MIB"), 4096, "memory of one build in a sandbox"),
	buildProcesses: setting(whole(32, 4_194_304, "COUNT"), 1024, "processes and threads of one build in a sandbox"),
	buildDisk: setting(whole(16, 1_073_741_824, "MIB"), 8192, "what one build in a sandbox may add to the disk"),
	go: setting(text, "go", "the Go command"),
	npm: setting(
		text,
		"npm",
		"the npm command, for Node's builds; registries and credentials are those of its configuration",
	),
	git: setting(text, "git", "the git command"),
	gitHosts: setting(
		optional,
		null,
		"JSON file with git hosts: their kind, API, token, CA, and whether they may be private",
	),
	sourceAge: setting(seconds(0, 10 ** 9), 24 * 3600, "how long a source that no service uses is kept"),
	keepBuilds: setting(whole(1, 1000, "COUNT"), 5, "how many of a service's newest builds are kept to roll back to"),
	collectEvery: setting(seconds(1, 10 ** 6), 3600, "how often what nobody needs is removed"),
	scrubEvery: setting(seconds(1, 10 ** 9), 24 * 3600, "how often stored bytes are read again to see if they are whole"),
	stopGrace: setting(seconds(0, 3600), 10, "how long a program may take to end after SIGTERM"),
	drain: setting(seconds(0, 3600), 30, "how long requests to a replaced revision may go on"),
	ports: setting(portRange, null, "ports for services; by default from 20000 to below the system's own range"),
	docker: setting(
		optional,
		null,
		"profile docker: the engine's socket; by default that of DOCKER_HOST, or the usual one",
	),
	image: setting(optional, null, "profile docker: your own base image, with the loader; by default one is made"),
	imageNode: setting(optional, null, "profile docker: the same for services that need Node"),
	memory: setting(
		whole(16, 1_048_576, "MIB"),
		512,
		"profile docker: memory of an instance, where its service says nothing",
	),
	cpu: setting(cores, 1, "profile docker: cores of an instance, where its service says nothing"),
	processes: setting(
		whole(8, 4_194_304, "COUNT"),
		256,
		"profile docker: processes and threads of an instance, the same",
	),
	maxMemory: setting(
		whole(16, 1_048_576, "MIB"),
		() => Math.max(16, Math.floor(totalmem() / 1024 ** 2)),
		"profile docker: the most memory that a service may ask for",
	),
	maxCpu: setting(cores, () => cpus().length, "profile docker: the most cores that a service may ask for"),
	maxProcesses: setting(
		whole(8, 4_194_304, "COUNT"),
		4096,
		"profile docker: the most processes that a service may ask for",
	),
	loaderAddress: setting(
		place,
		null,
		"where containers get their builds; by default the bridge's address and a port that is chosen once",
	),
	loaderUrl: setting(
		httpsUrl,
		null,
		"the https URL by which containers reach that address, where it is another one; nothing between may end TLS",
	),
	postgres: setting(
		optional,
		null,
		"keep the records in PostgreSQL: postgres://USER@HOST/DATABASE; the password is in PGPASSWORD or ~/.pgpass",
	),
	postgresSchema: setting(
		matching(/^[a-z_][a-z0-9_]{0,62}$/, "must be lower-case letters, digits and _", "NAME"),
		"runtime_builds",
		"the schema in that database; made where it does not exist",
	),
	s3Bucket: setting(optional, null, "keep sources and builds in this S3 bucket"),
	s3Endpoint: setting(optional, null, "its URL; by default Amazon's of the region"),
	s3Region: setting(
		matching(/^[a-z0-9-]{1,63}$/i, "must be a region's name", "NAME"),
		"us-east-1",
		"most other endpoints take this one as well",
	),
	s3Prefix: setting(text, "", "what all names in the bucket start with, so that it can be shared"),
	s3PathStyle: setting(
		matching(/^(auto|0|1)$/, "must be auto, 1 or 0", "CHOICE"),
		"auto",
		"the bucket in the URL's path and not in its host name; auto: where an endpoint is given",
	),
	s3Checksums: setting(
		checksums,
		"when_supported",
		"when_required for endpoints that do not know the checksums that are sent by default",
	),
	acceptLoss: setting(flag, false, "start although records are missing that had been written"),
} as const;

type Settings = typeof SETTINGS;
/** What they come to. */
export type Values = { [K in keyof Settings]: Settings[K] extends Setting<infer T> ? T : never };
