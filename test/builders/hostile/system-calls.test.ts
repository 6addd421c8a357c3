import { chmod, mkdir, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import t, { type Test } from "tap";
import { Bubblewrap } from "../../../src/builders/sandbox/bubblewrap.ts";
import { systemCallFilter } from "../../../src/builders/sandbox/system-calls.ts";
import { BWRAP, folderFor, never, skip as noSandbox, shell } from "./sandboxes.ts";

const column = ["x64", "arm64"].indexOf(process.arch);
const skip = noSandbox || (column === -1 && "the filter does not know this processor");

/** Each is allowed by the sandbox alone: namespaces and the lack of capabilities do not stand in its way. */
const CALLS = [
	{ what: "a key in the kernel", numbers: [248, 217], args: `"user", "mine", "secret", 6, -2`, says: "EPERM" },
	{ what: "where that is", numbers: [250, 219], args: "0, -2, 1", says: "EPERM" },
	{ what: "faults handled by itself", numbers: [323, 282], args: "1", says: "EPERM" },
	{ what: "a ring of calls", numbers: [425, 425], args: `4, "\\0" x 120`, says: "ENOSYS" },
	{ what: "being traced", numbers: [101, 117], args: "0, 0, 0, 0", says: "EPERM" },
	{
		what: "a file's handle",
		numbers: [303, 264],
		args: `-100, "/tmp", pack("IIx128", 128, 0), pack("x8"), 0`,
		says: "EPERM",
	},
	{ what: "no random addresses", numbers: [135, 92], args: "0x0040000", says: "EPERM" },
	{ what: "a socket of the kernel's events", numbers: [41, 198], args: "16, 3, 15", says: "EAFNOSUPPORT" },
	{ what: "a program that runs as its owner", numbers: [268, 53], args: `-100, "mine", 04755`, says: "EPERM" },
	{ what: "one made so", numbers: [257, 56], args: `-100, "made", 0101, 04755`, says: "EPERM" },
] as const;

async function confined(t: Test, filter: boolean) {
	const sandbox = await Bubblewrap.open(
		{ file: BWRAP ?? "", workFolder: await folderFor(t), filter },
		{ signal: never },
	);
	t.teardown(() => sandbox.close());
	t.equal(sandbox.filtered, filter);
	const folder = join(await folderFor(t), "work");
	await mkdir(folder);
	await writeFile(join(folder, "mine"), "");
	return { sandbox, folder, seen: { writes: [folder], cwd: folder } };
}

function perl(number: number, args: string): string {
	return `perl -MErrno -e 'my @a = (${args}); my $r = syscall(${number}, @a); my ($n) = grep { $!{$_} } keys %!; print $r == -1 ? $n : "done"'`;
}

t.test("system calls that no build needs are refused", { skip }, async (t) => {
	const [filtered, bare] = [await confined(t, true), await confined(t, false)];
	for (const { what, numbers, args, says } of CALLS) {
		const line = perl(numbers[column === 1 ? 1 : 0], args);
		t.equal((await shell(bare.sandbox, line, bare.seen)).text, "done", `the canary: ${what}`);
		t.equal((await shell(filtered.sandbox, line, filtered.seen)).text, says, what);
	}
	t.equal((await stat(join(bare.folder, "mine"))).mode & 0o7777, 0o4755, "outside it would be one too");
	t.equal((await stat(join(filtered.folder, "mine"))).mode & 0o6000, 0);
});

t.test("what programs need goes on", { skip }, async (t) => {
	const { sandbox, seen } = await confined(t, true);
	const script = "chmod 755 mine; mkdir -m 755 d; echo x >new; (echo sub) | cat; ls -l mine | cut -c1-10";
	t.match(await shell(sandbox, script, seen), { exitCode: 0, lines: ["sub", "-rwxr-xr-x"] });
	const program = `new Worker("process.exit()", { eval: true }).once("exit", () =>
		console.log(require("node:os").networkInterfaces(), require("node:child_process").execSync("echo child") + ""))`;
	const node = `'${process.execPath}' -e 'const { Worker } = require("node:worker_threads"); ${program}'`;
	t.match(await shell(sandbox, node, { ...seen, reads: [process.execPath] }), { exitCode: 0, text: /child/ });
});

t.test(
	"calls by the convention of 32 bit end the program",
	{ skip: skip || (column !== 0 && "of x86_64") },
	async (t) => {
		for (const { filter, exitCode } of [
			{ filter: false, exitCode: 7 },
			{ filter: true, exitCode: 128 + 31 },
		]) {
			const { sandbox, folder, seen } = await confined(t, filter);
			// getpid by int 0x80, then exit(7).
			await writeFile(join(folder, "program"), elf("b814000000cd80bf07000000b83c0000000f05"));
			await chmod(join(folder, "program"), 0o755);
			t.equal((await shell(sandbox, "./program", seen)).exitCode, exitCode);
		}
	},
);

t.test("on a processor whose calls are not known there is none", async (t) => {
	t.equal(systemCallFilter("riscv64"), undefined);
	for (const [architecture, machine] of Object.entries({ x64: 0xc000003e, arm64: 0xc00000b7 })) {
		const program = systemCallFilter(architecture) ?? Buffer.alloc(0);
		const verdict = (number: number, ...args: number[]) =>
			run(program, [number, machine, 0, 0, ...args.flatMap((a) => [a, 0])]);
		const at = (numbers: readonly [number, number]) => numbers[architecture === "x64" ? 0 : 1];
		t.equal(verdict(at([0, 63])), "allow", "read");
		t.equal(verdict(at([248, 217])), "errno 1", "add_key");
		t.equal(verdict(at([435, 435])), "errno 38", "clone3");
		t.equal(verdict(at([56, 220]), 0x1200011), "allow", "clone of a process");
		t.equal(verdict(at([56, 220]), 0x3d0f00), "allow", "clone of a thread");
		for (const flag of [0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000])
			for (const call of [at([56, 220]), at([272, 97])]) t.equal(verdict(call, flag | 0x11), "errno 1");
		t.equal(verdict(at([272, 97]), 0x400), "allow", "unshare of descriptors");
		t.equal(verdict(at([16, 29]), 1, 0x5413), "allow", "TIOCGWINSZ");
		t.equal(verdict(at([16, 29]), 1, 0x5412), "errno 1", "TIOCSTI");
		t.equal(verdict(at([41, 198]), 16, 3, 0), "allow", "routes");
		t.equal(verdict(at([41, 198]), 40, 1, 0), "errno 97", "vsock");
		t.equal(verdict(at([257, 56]), 0, 0, 0, 0o4755), "allow", "a mode that is not looked at");
		t.equal(run(program, [0, 0x40000003, 0, 0, ...Array(12).fill(0)]), "kill", "another machine");
	}
});

/** What the kernel does with classic BPF, as far as the filter uses it; `data` is `struct seccomp_data` in words. */
function run(program: Buffer, data: readonly number[]): string {
	let loaded = 0;
	for (let at = 0; at < program.length; at += 8) {
		const [code, yes, no, k] = [
			program.readUInt16LE(at),
			program.readUInt8(at + 2),
			program.readUInt8(at + 3),
			program.readUInt32LE(at + 4),
		];
		const jump = (holds: boolean) => {
			at += 8 * (holds ? yes : no);
		};
		if (code === 0x20) loaded = (data[k / 4] ?? Number.NaN) >>> 0;
		else if (code === 0x15) jump(loaded === k);
		else if (code === 0x35) jump(loaded >= k);
		else if (code === 0x45) jump((loaded & k) !== 0);
		else if (code === 0x06) return k === 0x7fff0000 ? "allow" : k === 0x80000000 ? "kill" : `errno ${k & 0xffff}`;
		else return `an unknown instruction ${code}`;
	}
	return "no verdict";
}

/** The smallest program of x86_64 that has this machine code. */
function elf(code: string): Buffer {
	const file = Buffer.alloc(120);
	Buffer.from("7f454c46020101000000000000000000" + "02003e0001000000", "hex").copy(file);
	file.writeBigUInt64LE(0x400078n, 24);
	file.writeBigUInt64LE(64n, 32);
	Buffer.from("40003800010000000000", "hex").copy(file, 52);
	Buffer.from("0100000005000000", "hex").copy(file, 64);
	for (const [offset, value] of [
		[80, 0x400000n],
		[88, 0x400000n],
		[96, 256n],
		[104, 256n],
		[112, 4096n],
	] as const)
		file.writeBigUInt64LE(value, offset);
	return Buffer.concat([file, Buffer.from(code, "hex"), Buffer.alloc(256)]);
}
