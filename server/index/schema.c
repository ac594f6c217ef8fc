/* Opening the index. Migrations stand in order; each runs in one transaction with its version. */
#include "schema.h"
#include "base/path.h"
#include "statement.h"

#include <sqlite3.h>
#include <stdio.h>

static const char *const migrations[] = {
    /* 1 */
    "CREATE TABLE sessions("
    " id TEXT PRIMARY KEY, name TEXT NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL DEFAULT "
    "'',"
    " image TEXT NOT NULL, head BLOB, slot INTEGER NOT NULL, upper INTEGER NOT NULL,"
    " unclean INTEGER NOT NULL DEFAULT 0, fence INTEGER NOT NULL DEFAULT 0,"
    " owner TEXT NOT NULL, created_ns INTEGER NOT NULL, used_ns INTEGER NOT NULL,"
    " deleted_ns INTEGER NOT NULL DEFAULT 0) STRICT;"
    "CREATE UNIQUE INDEX sessions_live ON sessions(name) WHERE state <> 'deleted';"
    "CREATE TABLE layers("
    " digest BLOB PRIMARY KEY, diff_id BLOB NOT NULL, bytes INTEGER NOT NULL,"
    " raw_bytes INTEGER NOT NULL, entries INTEGER NOT NULL) STRICT;"
    "CREATE TABLE snapshots("
    " digest BLOB PRIMARY KEY, session TEXT NOT NULL REFERENCES sessions(id), parent BLOB,"
    " name TEXT, note TEXT NOT NULL DEFAULT '', made_by TEXT NOT NULL, image TEXT NOT NULL,"
    " created_ns INTEGER NOT NULL, bytes INTEGER NOT NULL, total_bytes INTEGER NOT NULL) STRICT;"
    "CREATE INDEX snapshots_session ON snapshots(session, created_ns);"
    "CREATE TABLE snapshot_layers("
    " snapshot BLOB NOT NULL REFERENCES snapshots(digest) ON DELETE CASCADE,"
    " position INTEGER NOT NULL, layer BLOB NOT NULL REFERENCES layers(digest),"
    " PRIMARY KEY(snapshot, position)) STRICT, WITHOUT ROWID;"
    /* a kept upper.N equals these layers (32 bytes each, the lowest first) */
    "CREATE TABLE uppers("
    " session TEXT NOT NULL REFERENCES sessions(id), n INTEGER NOT NULL, layers BLOB NOT NULL,"
    " boot TEXT NOT NULL, synced INTEGER NOT NULL DEFAULT 0, PRIMARY KEY(session, n)) STRICT;"
    "CREATE TABLE calls("
    " id TEXT PRIMARY KEY, session TEXT NOT NULL, principal TEXT NOT NULL, command TEXT NOT NULL,"
    " started_ns INTEGER NOT NULL, ended_ns INTEGER NOT NULL DEFAULT 0,"
    " exit_status INTEGER NOT NULL DEFAULT 0, signal INTEGER NOT NULL DEFAULT 0,"
    " ended_by TEXT NOT NULL DEFAULT '', out_bytes INTEGER NOT NULL DEFAULT 0,"
    " err_bytes INTEGER NOT NULL DEFAULT 0, wall_ns INTEGER NOT NULL DEFAULT 0,"
    " cpu_ns INTEGER NOT NULL DEFAULT 0, peak_bytes INTEGER NOT NULL DEFAULT 0,"
    " out_sha256 TEXT NOT NULL DEFAULT '', err_sha256 TEXT NOT NULL DEFAULT '',"
    " left_running TEXT NOT NULL DEFAULT '') STRICT;"
    "CREATE INDEX calls_session ON calls(session, started_ns);"
    /* the last call record of each session's spool that is in the table above */
    "CREATE TABLE spools(session TEXT PRIMARY KEY, last INTEGER NOT NULL) STRICT;",
    /* 2: images by content (their rows never change), and what names stand for */
    "CREATE TABLE images("
    " content TEXT PRIMARY KEY, layers BLOB NOT NULL, env BLOB NOT NULL, cwd TEXT NOT NULL,"
    " user TEXT NOT NULL, home TEXT NOT NULL, uid INTEGER NOT NULL, gid INTEGER NOT NULL,"
    " bytes INTEGER NOT NULL, entries INTEGER NOT NULL, dropped INTEGER NOT NULL) STRICT;"
    "CREATE TABLE image_names("
    " name TEXT PRIMARY KEY, content TEXT NOT NULL REFERENCES images(content),"
    " created_ns INTEGER NOT NULL) STRICT;",
    /* 3: limits of a session that are not the node's (ceiling NULL: no operator chose one), and
     * which limit a call ran into */
    "CREATE TABLE session_limits("
    " session TEXT NOT NULL REFERENCES sessions(id) ON DELETE CASCADE, key TEXT NOT NULL,"
    " value INTEGER NOT NULL, ceiling INTEGER, PRIMARY KEY(session, key)) STRICT, WITHOUT ROWID;"
    "ALTER TABLE calls ADD COLUMN limit_hit TEXT NOT NULL DEFAULT '';",
    /* 4: what else was chosen for a session, in words: its mounts, its walls, the node it is of */
    "CREATE TABLE session_choices("
    " session TEXT NOT NULL REFERENCES sessions(id) ON DELETE CASCADE, key TEXT NOT NULL,"
    " value TEXT NOT NULL, PRIMARY KEY(session, key)) STRICT, WITHOUT ROWID;",
    /* 5: the network of a session: none, host, join:NAME */
    "ALTER TABLE sessions ADD COLUMN network TEXT NOT NULL DEFAULT 'none';",
    /* 6: what a call is: exec (a login shell too), or the name of a subsystem */
    "ALTER TABLE calls ADD COLUMN kind TEXT NOT NULL DEFAULT 'exec';",
    /* 7: whether cpu_ns of a call is the word of its session's init, not the kernel's count */
    "ALTER TABLE calls ADD COLUMN cpu_told INTEGER NOT NULL DEFAULT 1;",
    /* 8: the mutable facts of a snapshot, and which calls made it; labels are "KEY=VALUE" lines. The
     * way forward of an undo: at `position` lies the snapshot that the next redo comes to. */
    "ALTER TABLE snapshots ADD COLUMN labels TEXT NOT NULL DEFAULT '';"
    "ALTER TABLE snapshots ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE snapshots ADD COLUMN expires_ns INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE snapshots ADD COLUMN calls TEXT NOT NULL DEFAULT '';"
    "CREATE UNIQUE INDEX snapshots_name ON snapshots(session, name) WHERE name IS NOT NULL;"
    "ALTER TABLE sessions ADD COLUMN labels TEXT NOT NULL DEFAULT '';"
    "CREATE TABLE redo("
    " session TEXT NOT NULL REFERENCES sessions(id) ON DELETE CASCADE, position INTEGER NOT NULL,"
    " snapshot BLOB NOT NULL, PRIMARY KEY(session, position)) STRICT, WITHOUT ROWID;"
    /* blobs that a collector may take, since when */
    "CREATE TABLE dying(digest BLOB PRIMARY KEY, since_ns INTEGER NOT NULL) STRICT, WITHOUT ROWID;",
};
_Static_assert(sizeof migrations / sizeof *migrations == SCHEMA_VERSION, "one migration a version");

static int
integer_of(sqlite3 *db, const char *sql, int *out, struct err *err)
{
	sqlite3_stmt *st = NULL;
	int result = -1;

	if (sqlite3_prepare_v2(db, sql, -1, &st, NULL) == SQLITE_OK &&
	    sqlite3_step(st) == SQLITE_ROW) {
		*out = sqlite3_column_int(st, 0);
		result = 0;
	} else {
		statement_failed(db, "read index.db", err);
	}
	sqlite3_finalize(st);
	return result;
}

/* One pass over the structure: a damaged index must not be written to. */
static int
check_sound(sqlite3 *db, struct err *err)
{
	sqlite3_stmt *st = NULL;
	int result = 0;

	if (sqlite3_prepare_v2(db, "PRAGMA quick_check(1)", -1, &st, NULL) != SQLITE_OK ||
	    sqlite3_step(st) != SQLITE_ROW) {
		result = statement_failed(db, "read index.db", err);
	} else if (strcmp((const char *)sqlite3_column_text(st, 0), "ok") != 0) {
		err_set(err, ERR_CORRUPT, "read index.db: %s", sqlite3_column_text(st, 0));
		result = err_hint(err, "nothing was changed; put back a copy of index.db");
	}
	sqlite3_finalize(st);
	return result;
}

static int
migrate(sqlite3 *db, struct err *err)
{
	int version;

	if (integer_of(db, "PRAGMA user_version", &version, err) < 0)
		return -1;
	if (version > SCHEMA_VERSION)
		return err_set(
		    err, ERR_CONFIG,
		    "index.db has schema version %d, this berthd knows %d: use a newer one",
		    version, SCHEMA_VERSION);
	for (int v = version; v < SCHEMA_VERSION; v++) {
		char end[64];
		snprintf(end, sizeof end, "PRAGMA user_version=%d; COMMIT", v + 1);
		if (sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL) != SQLITE_OK ||
		    sqlite3_exec(db, migrations[v], NULL, NULL, NULL) != SQLITE_OK ||
		    sqlite3_exec(db, end, NULL, NULL, NULL) != SQLITE_OK) {
			statement_failed(db, "migrate index.db", err);
			sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
			return -1;
		}
	}
	return 0;
}

int
schema_open(int state_dir, struct sqlite3 **out, struct err *err)
{
	char path[64];
	sqlite3 *db = NULL;

	/* By the directory's fd: /proc/self/fd/N names it whatever path the operator used. */
	snprintf(path, sizeof path, "/proc/self/fd/%d/index.db", state_dir);
	int result = 0;
	if (sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL) !=
	    SQLITE_OK)
		result = statement_failed(db, "open index.db", err);
	if (result == 0 && path_exists(state_dir, "index.db"))
		result = check_sound(db, err);
	if (result == 0 &&
	    sqlite3_exec(db,
			 "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;"
			 "PRAGMA busy_timeout=300; PRAGMA trusted_schema=OFF",
			 NULL, NULL, NULL) != SQLITE_OK)
		result = statement_failed(db, "set up index.db", err);
	if (result == 0)
		result = migrate(db, err);
	if (result < 0) {
		sqlite3_close(db);
		return -1;
	}
	*out = db;
	return 0;
}
