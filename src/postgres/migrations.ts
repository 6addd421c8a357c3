/**
 * The tables of the records, one migration after the other; what was released is never changed. Names and ids compare byte
 * by byte (`C`), as in every other store. Records are `json` and not `jsonb`, which refuses the NUL that a program may print.
 */
export const MIGRATIONS: readonly string[] = [
	`
	CREATE TABLE service (
		id text COLLATE "C" PRIMARY KEY,
		namespace text COLLATE "C" NOT NULL,
		name text COLLATE "C" NOT NULL,
		version text COLLATE "C" NOT NULL,
		stamp bigint NOT NULL,
		record json NOT NULL,
		UNIQUE (namespace, name, version)
	);
	CREATE TABLE revision (
		service_id text COLLATE "C" NOT NULL REFERENCES service ON DELETE CASCADE,
		number integer NOT NULL,
		record json NOT NULL,
		PRIMARY KEY (service_id, number)
	);
	CREATE TABLE event (
		service_id text COLLATE "C" NOT NULL REFERENCES service ON DELETE CASCADE,
		seq bigint NOT NULL,
		record json NOT NULL,
		PRIMARY KEY (service_id, seq)
	);
	CREATE TABLE source (
		namespace text COLLATE "C" NOT NULL,
		id text COLLATE "C" NOT NULL,
		collected boolean NOT NULL DEFAULT false,
		record json NOT NULL,
		PRIMARY KEY (namespace, id)
	);
	CREATE TABLE source_reference (
		service_id text COLLATE "C" NOT NULL REFERENCES service ON DELETE CASCADE,
		namespace text COLLATE "C" NOT NULL,
		source_id text COLLATE "C" NOT NULL,
		PRIMARY KEY (service_id, source_id)
	);
	CREATE INDEX source_reference_by_source ON source_reference (namespace, source_id);
	CREATE TABLE idempotency (
		namespace text COLLATE "C" NOT NULL,
		key text COLLATE "C" NOT NULL,
		time text COLLATE "C" NOT NULL,
		record json NOT NULL,
		PRIMARY KEY (namespace, key)
	);
	CREATE INDEX idempotency_by_time ON idempotency (time);
	CREATE TABLE token (
		id text COLLATE "C" PRIMARY KEY,
		record json NOT NULL
	);
	`,
	`
	CREATE TABLE records_id (
		one boolean PRIMARY KEY DEFAULT true CHECK (one),
		id text NOT NULL
	);
	`,
];
