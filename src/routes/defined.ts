type Defined<T> = { [K in keyof T as undefined extends T[K] ? K : never]?: Exclude<T[K], undefined> } & {
	[K in keyof T as undefined extends T[K] ? never : K]: T[K];
};

/** An object without the members that are undefined: what was not said is absent. */
export function defined<T extends object>(value: T): Defined<T>;
export function defined(value: object): object {
	return Object.fromEntries(Object.entries(value).filter(([, member]) => member !== undefined));
}
