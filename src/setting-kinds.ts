/** How a setting is written: `parse` reads a flag or a variable, `shape` stands in the help; none: a switch without a value. */
type Parsed<T> = { readonly value: T } | { readonly fault: string };
export type Kind<T> = { readonly parse: (text: string) => Parsed<T>; readonly shape: string };
export type Setting<T> = Kind<T> & { readonly fallback: T | (() => T); readonly about: string };

export const text: Kind<string> = { parse: (value) => ({ value }), shape: "TEXT" };
export const optional: Kind<string | null> = { parse: (value) => ({ value }), shape: "TEXT" };
export const flag: Kind<boolean> = {
	parse: (value) => {
		if (/^(1|true|yes|on)$/i.test(value)) return { value: true };
		return /^(0|false|no|off)$/i.test(value) ? { value: false } : { fault: "must be 1 or 0" };
	},
	shape: "",
};

/** Text of a form; `words` say which. */
export function matching(form: RegExp, words: string, shape: string): Kind<string> {
	return { parse: (value) => (form.test(value) ? { value } : { fault: words }), shape };
}

export function whole(least: number, most: number, shape: string): Kind<number> {
	return {
		parse: (text) => {
			const value = Number(text);
			const fits = /^\d+$/.test(text) && value >= least && value <= most;
			return fits ? { value } : { fault: `must be a whole number from ${least} to ${most}` };
		},
		shape,
	};
}

export const portRange: Kind<{ readonly from: number; readonly to: number } | null> = {
	parse: (text) => {
		const [, from, to] = /^(\d{1,5})-(\d{1,5})$/.exec(text)?.map(Number) ?? [];
		const fits = from !== undefined && to !== undefined && from >= 1 && to <= 65_535 && from < to;
		return fits ? { value: { from, to } } : { fault: "must be FIRST-LAST" };
	},
	shape: "FIRST-LAST",
};

export const place: Kind<{ readonly host: string; readonly port: number } | null> = {
	parse: (text) => {
		const [, host = "", port = ""] = /^(\[[0-9a-f:]+\]|[^:\s]+):(\d{1,5})$/i.exec(text) ?? [];
		const fits = host !== "" && Number(port) <= 65_535;
		return fits
			? { value: { host: host.replace(/^\[|\]$/g, ""), port: Number(port) } }
			: { fault: "must be HOST:PORT" };
	},
	shape: "HOST:PORT",
};

/** Without a slash at its end. */
export const httpsUrl: Kind<string | null> = {
	parse: (text) => {
		const url = URL.canParse(text) ? new URL(text) : null;
		const plain = url?.protocol === "https:" && url.username + url.password + url.search + url.hash === "";
		return plain ? { value: url.href.replace(/\/+$/, "") } : { fault: "must be an https URL with nothing but a path" };
	},
	shape: "URL",
};

export const cores: Kind<number> = {
	parse: (text) => {
		const value = Number(text);
		const fits = /^\d+(\.\d+)?$/.test(text) && value >= 0.01 && value <= 1024;
		return fits ? { value } : { fault: "must be a number of cores from 0.01 to 1024" };
	},
	shape: "CORES",
};

export const sandboxChoice: Kind<"auto" | "bubblewrap" | "container" | "none"> = {
	parse: (value) =>
		value === "auto" || value === "bubblewrap" || value === "container" || value === "none"
			? { value }
			: { fault: "must be auto, bubblewrap, container or none" },
	shape: "NAME",
};

export const checksums: Kind<"when_supported" | "when_required"> = {
	parse: (value) =>
		value === "when_supported" || value === "when_required"
			? { value }
			: { fault: "must be when_supported or when_required" },
	shape: "CHOICE",
};

export const seconds = (least: number, most: number) => whole(least, most, "SECONDS");
export const bytes = whole(1024, Number.MAX_SAFE_INTEGER, "BYTES");

export function setting<T>(kind: Kind<T>, fallback: T | (() => T), about: string): Setting<T> {
	return { ...kind, fallback, about };
}
