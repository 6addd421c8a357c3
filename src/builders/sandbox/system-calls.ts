import { constants } from "node:os";

/** One row of a classic BPF program: `struct sock_filter`. */
type Row = { readonly code: number; readonly yes: number; readonly no: number; readonly k: number };

/** `AUDIT_ARCH_*`, as the kernel names the convention by which a call came in. */
const MACHINES: Readonly<Record<string, { readonly audit: number; readonly column: 0 | 1 }>> = {
	x64: { audit: 0xc000003e, column: 0 },
	arm64: { audit: 0xc00000b7, column: 1 },
};
const { EPERM, ENOSYS, EAFNOSUPPORT } = constants.errno;
/** Numbers from here on are of x32, another name for each call. */
const X32 = 0x40000000;

/** A call's number on x86_64 and on aarch64; undefined: it is not there. */
type Numbers = readonly [x64: number | undefined, arm64: number | undefined];

/** Refused whatever is asked of them: a build has no use for them, and much of the kernel is behind them. */
const REFUSED: Readonly<Record<string, Numbers>> = {
	// Keys are not in a namespace.
	...{ keyctl: [250, 219], add_key: [248, 217], request_key: [249, 218] },
	...{ bpf: [321, 280], perf_event_open: [298, 241], userfaultfd: [323, 282], fanotify_init: [300, 262] },
	...{ kexec_load: [246, 104], kexec_file_load: [320, 294] },
	...{ init_module: [175, 105], finit_module: [313, 273], delete_module: [176, 106] },
	...{ create_module: [174, undefined], query_module: [178, undefined], get_kernel_syms: [177, undefined] },
	...{ mount: [165, 40], umount2: [166, 39], pivot_root: [155, 41], chroot: [161, 51], setns: [308, 268] },
	...{ fsopen: [430, 430], fsconfig: [431, 431], fsmount: [432, 432], fspick: [433, 433], move_mount: [429, 429] },
	...{ open_tree: [428, 428], mount_setattr: [442, 442], open_tree_attr: [467, 467] },
	...{ statmount: [457, 457], listmount: [458, 458], quotactl: [179, 60], quotactl_fd: [443, 443] },
	...{ ptrace: [101, 117], process_vm_readv: [310, 270], process_vm_writev: [311, 271], kcmp: [312, 272] },
	...{ process_madvise: [440, 440], pidfd_getfd: [438, 438], move_pages: [279, 239], migrate_pages: [256, 238] },
	...{ swapon: [167, 224], swapoff: [168, 225], reboot: [169, 142], syslog: [103, 116], acct: [163, 89] },
	...{ nfsservctl: [180, 42], vhangup: [153, 58], lookup_dcookie: [212, 18], iopl: [172, undefined] },
	...{ name_to_handle_at: [303, 264], open_by_handle_at: [304, 265], ioperm: [173, undefined] },
	...{ uselib: [134, undefined], ustat: [136, undefined], sysfs: [139, undefined], _sysctl: [156, undefined] },
	...{ settimeofday: [164, 170], clock_settime: [227, 112], adjtimex: [159, 171], clock_adjtime: [305, 266] },
	...{ sethostname: [170, 161], setdomainname: [171, 162] },
};

/** Programs do without these where the kernel is too old for them; their arguments lie in memory, where a filter cannot look. */
const MISSING: Readonly<Record<string, Numbers>> = {
	...{ clone3: [435, 435], openat2: [437, 437] },
	...{ io_uring_setup: [425, 425], io_uring_enter: [426, 426], io_uring_register: [427, 427] },
};

/** CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET. */
const NEW_NAMESPACES = 0x7e020000;
/** Of unshare alone; with clone the same bit belongs to the signal's number. */
const NEW_TIME = 0x80;
const [TIOCSTI, TIOCLINUX] = [0x5412, 0x541c];
const [AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, NETLINK_ROUTE] = [1, 2, 10, 16, 0];
/** Linux as it is, with PER_LINUX32 or UNAME26; all bits: only asks. */
const PERSONALITIES = [0, 0x0008, 0x20000, 0x20008, 0xffffffff];
/** O_CREAT and O_TMPFILE, without which a mode is not looked at. */
const CREATES = 0x400040;
/** Set-user-id and set-group-id: inside they mean nothing, but the file is there outside too. */
const RUNS_AS_OWNER = 0o6000;

/** What depends on the arguments. Each list ends with a verdict, whichever way it is gone through. */
const WEIGHED: readonly (readonly [Numbers, readonly Row[]])[] = [
	[
		[56, 220],
		[load(argument(0)), ...refuseIfAny(NEW_NAMESPACES), allow()],
	],
	[
		[272, 97],
		[load(argument(0)), ...refuseIfAny(NEW_NAMESPACES | NEW_TIME), allow()],
	],
	// Types into the terminal of whoever started the server.
	[
		[16, 29],
		[load(argument(1)), ...when(TIOCSTI, [refuse(EPERM)]), ...when(TIOCLINUX, [refuse(EPERM)]), allow()],
	],
	[
		[135, 92],
		[load(argument(0)), ...PERSONALITIES.flatMap((one) => when(one, [allow()])), refuse(EPERM)],
	],
	// Other families are code that is seldom looked at, and the machine's own sockets (vsock) are in no namespace.
	[
		[41, 198],
		[
			load(argument(0)),
			...[AF_UNIX, AF_INET, AF_INET6].flatMap((family) => when(family, [allow()])),
			...when(AF_NETLINK, [load(argument(2)), ...when(NETLINK_ROUTE, [allow()]), refuse(EAFNOSUPPORT)]),
			refuse(EAFNOSUPPORT),
		],
	],
	[
		[53, 199],
		[load(argument(0)), ...when(AF_UNIX, [allow()]), refuse(EAFNOSUPPORT)],
	],
	[[90, undefined], mode(1)],
	[[91, 52], mode(1)],
	[[268, 53], mode(2)],
	[[452, 452], mode(2)],
	[[85, undefined], mode(1)],
	[[133, undefined], mode(1)],
	[[259, 33], mode(2)],
	[
		[2, undefined],
		[load(argument(1)), ...unlessAny(CREATES, [allow()]), ...mode(2)],
	],
	[
		[257, 56],
		[load(argument(2)), ...unlessAny(CREATES, [allow()]), ...mode(3)],
	],
];

/**
 * A seccomp program that refuses system calls which builds have no use for, for a processor that Node calls `architecture`;
 * undefined for one whose numbers are not known here. What is not named is allowed: toolchains change, and the namespaces
 * and the lack of capabilities come before it.
 */
export function systemCallFilter(architecture: string): Buffer | undefined {
	const machine = MACHINES[architecture];
	if (machine === undefined) return undefined;
	const { audit, column } = machine;
	const on = (numbers: Numbers, then: readonly Row[]) => {
		const number = numbers[column];
		return number === undefined ? [] : when(number, then);
	};
	const rows: Row[] = [
		load(4),
		// The same machine's other convention (32 bit) has numbers of its own for the same calls.
		...unless(audit, [verdict(0x80000000)]),
		load(0),
		...(architecture === "x64" ? [{ code: 0x35, yes: 0, no: 1, k: X32 }, refuse(ENOSYS)] : []),
		...WEIGHED.flatMap(([numbers, then]) => on(numbers, then)),
		...Object.values(REFUSED).flatMap((numbers) => on(numbers, [refuse(EPERM)])),
		...Object.values(MISSING).flatMap((numbers) => on(numbers, [refuse(ENOSYS)])),
		allow(),
	];
	const program = Buffer.alloc(rows.length * 8);
	for (const [index, { code, yes, no, k }] of rows.entries()) {
		const at = program.writeUInt16LE(code, index * 8);
		program.writeUInt8(yes, at);
		program.writeUInt8(no, at + 1);
		program.writeUInt32LE(k >>> 0, at + 2);
	}
	return program;
}

/** The word at this offset of `struct seccomp_data`. */
function load(offset: number): Row {
	return { code: 0x20, yes: 0, no: 0, k: offset };
}

/** The lower half of an argument, which is all that the calls here look at. */
function argument(index: number): number {
	return 16 + index * 8;
}

function verdict(k: number): Row {
	return { code: 0x06, yes: 0, no: 0, k };
}

function allow(): Row {
	return verdict(0x7fff0000);
}

function refuse(errno: number): Row {
	return verdict(0x00050000 | errno);
}

/** `then` ends with a verdict: what it loads is not there for the rows after it. */
function when(k: number, then: readonly Row[]): Row[] {
	return [{ code: 0x15, yes: 0, no: then.length, k }, ...then];
}

function unless(k: number, then: readonly Row[]): Row[] {
	return [{ code: 0x15, yes: then.length, no: 0, k }, ...then];
}

function unlessAny(bits: number, then: readonly Row[]): Row[] {
	return [{ code: 0x45, yes: then.length, no: 0, k: bits }, ...then];
}

function refuseIfAny(bits: number): Row[] {
	return [{ code: 0x45, yes: 0, no: 1, k: bits }, refuse(EPERM)];
}

function mode(index: number): Row[] {
	return [load(argument(index)), ...refuseIfAny(RUNS_AS_OWNER), allow()];
}
