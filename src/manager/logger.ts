/** What the manager needs of a logger; pino fits. */
export interface Logger {
	info(details: object, message: string): void;
	warn(details: object, message: string): void;
	error(details: object, message: string): void;
}
