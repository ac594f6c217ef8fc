#include "idx.h"

#include <errno.h>
#include <inttypes.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>

struct idx_writer {
	sqlite3 *db;       /* owned */
	sqlite3_stmt *put; /* owned */
	uint64_t entries;
};

struct idx_reader {
	sqlite3 *db;        /* owned */
	sqlite3_stmt *find; /* owned */
};

int
idx_fail(sqlite3 *db, const char *doing, struct err *err)
{
	const int code = db ? sqlite3_errcode(db) : SQLITE_NOMEM;
	const int extended = db ? sqlite3_extended_errcode(db) : code;
	const bool damaged = code == SQLITE_CORRUPT || code == SQLITE_NOTADB ||
			     extended == SQLITE_IOERR_DATA || extended == SQLITE_IOERR_SHORT_READ;

	if (code == SQLITE_FULL)
		return err_sys(err, ENOSPC, "%s the index of a layer", doing);
	if (!damaged && (code & 0xff) == SQLITE_IOERR && idx_vfs_errno())
		return err_sys(err, idx_vfs_errno(), "%s the index of a layer", doing);
	return err_set(err, damaged ? ERR_CORRUPT : ERR_INTERNAL, "%s the index of a layer: %s",
		       doing, db ? sqlite3_errmsg(db) : "no memory");
}

int
idx_open_db(int fd, int flags, sqlite3 **out, struct err *err)
{
	char name[16];

	snprintf(name, sizeof name, "%d", fd);
	if (sqlite3_open_v2(name, out, flags | SQLITE_OPEN_NOMUTEX, idx_vfs_name()) != SQLITE_OK)
		return idx_fail(*out, "open", err);
	if (flags & SQLITE_OPEN_READONLY) /* not when writing: it would insist on a journal */
		sqlite3_db_config(*out, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
	sqlite3_db_config(*out, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
	return 0;
}

/* ---- writing ---- */

struct idx_writer *
idx_writer_new(int fd, struct err *err)
{
	static const char begin[] =
	    "PRAGMA page_size=4096;"
	    "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;"
	    "PRAGMA temp_store=MEMORY; PRAGMA cache_size=-2000; PRAGMA user_version=1;"
	    "CREATE TABLE entry(path BLOB PRIMARY KEY, type TEXT NOT NULL, size INTEGER NOT NULL,"
	    " mode INTEGER NOT NULL, uid INTEGER NOT NULL, gid INTEGER NOT NULL,"
	    " mtime_ns INTEGER NOT NULL, link BLOB, data_at INTEGER, sparse INTEGER NOT NULL)"
	    " WITHOUT ROWID;"
	    "CREATE TABLE layer(digest BLOB, diff_id BLOB, bytes INTEGER, raw_bytes INTEGER,"
	    " entries INTEGER);"
	    "BEGIN";
	auto_of(idx_writer) struct idx_writer *w = xnew(1, sizeof *w);

	if (idx_open_db(fd, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, &w->db, err) < 0)
		return NULL;
	int reserved = IDX_RESERVED_BYTES;
	if (sqlite3_file_control(w->db, "main", SQLITE_FCNTL_RESERVE_BYTES, &reserved) !=
		SQLITE_OK ||
	    sqlite3_exec(w->db, begin, NULL, NULL, NULL) != SQLITE_OK ||
	    sqlite3_prepare_v2(w->db, "INSERT INTO entry VALUES(?,?,?,?,?,?,?,?,?,?)", -1, &w->put,
			       NULL) != SQLITE_OK) {
		idx_fail(w->db, "begin", err);
		return NULL;
	}
	return steal(&w);
}

void
idx_writer_free(struct idx_writer *w)
{
	if (!w)
		return;
	sqlite3_finalize(w->put);
	sqlite3_close(w->db);
	free(w);
}

static const char *
type_text(enum entry_type type)
{
	static const char *const texts[ENTRY_TYPES] = {"f", "d", "l", "p", "h", "w", "O"};
	return texts[type];
}

/* The row's key: a path, but for the opaque mark of a directory, which is no entry of its own. */
static int
bind_path(sqlite3_stmt *s, const struct entry *e, struct buf *scratch)
{
	const char *at = e->path.len ? e->path.at : ""; /* a NULL pointer would bind NULL */
	size_t n = e->path.len;

	if (e->type == ENTRY_OPAQUE) {
		buf_str(scratch, e->path);
		buf_char(scratch, '/');
		at = buf_cstr(scratch);
		n = scratch->len;
	}
	return sqlite3_bind_blob(s, 1, at, (int)n, SQLITE_TRANSIENT);
}

static int64_t
mtime_ns(const struct entry *e)
{
	int64_t ns;
	if (__builtin_mul_overflow(e->mtime_s, 1000000000, &ns))
		return e->mtime_s < 0 ? INT64_MIN : INT64_MAX;
	return ns + (ns < INT64_MAX - 1000000000 ? e->mtime_ns : 0);
}

int
idx_put(struct idx_writer *w, const struct entry *e, uint64_t data_at, struct err *err)
{
	auto_buf key = BUF_MAX(ENTRY_PATH_MAX_BYTES + 1);
	sqlite3_stmt *s = w->put;

	bind_path(s, e, &key);
	sqlite3_bind_text(s, 2, type_text(e->type), 1, SQLITE_STATIC);
	sqlite3_bind_int64(s, 3, (int64_t)e->size);
	sqlite3_bind_int64(s, 4, e->mode);
	sqlite3_bind_int64(s, 5, e->uid);
	sqlite3_bind_int64(s, 6, e->gid);
	sqlite3_bind_int64(s, 7, mtime_ns(e));
	if (e->link.len)
		sqlite3_bind_blob(s, 8, e->link.at, (int)e->link.len, SQLITE_STATIC);
	else
		sqlite3_bind_null(s, 8);
	if (e->type == ENTRY_FILE)
		sqlite3_bind_int64(s, 9, (int64_t)data_at);
	else
		sqlite3_bind_null(s, 9);
	sqlite3_bind_int(s, 10, e->sparse);
	if (sqlite3_step(s) != SQLITE_DONE)
		return idx_fail(w->db, "write", err);
	sqlite3_reset(s);
	w->entries++;
	return 0;
}

int
idx_finish(struct idx_writer *w, const struct frames_sum *sum, struct err *err)
{
	sqlite3_stmt *s = NULL;

	sqlite3_finalize(w->put);
	w->put = NULL;
	if (sqlite3_prepare_v2(w->db, "INSERT INTO layer VALUES(?,?,?,?,?)", -1, &s, NULL) !=
	    SQLITE_OK)
		return idx_fail(w->db, "finish", err);
	sqlite3_bind_blob(s, 1, sum->digest.at, DIGEST_BYTES, SQLITE_STATIC);
	sqlite3_bind_blob(s, 2, sum->diff_id.at, DIGEST_BYTES, SQLITE_STATIC);
	sqlite3_bind_int64(s, 3, (int64_t)sum->bytes);
	sqlite3_bind_int64(s, 4, (int64_t)sum->raw_bytes);
	sqlite3_bind_int64(s, 5, (int64_t)w->entries);
	const int stepped = sqlite3_step(s);
	sqlite3_finalize(s);
	if (stepped != SQLITE_DONE || sqlite3_exec(w->db, "COMMIT", NULL, NULL, NULL) != SQLITE_OK)
		return idx_fail(w->db, "finish", err);
	if (sqlite3_close(w->db) != SQLITE_OK)
		return idx_fail(w->db, "close", err);
	w->db = NULL;
	return 0;
}

/* ---- reading ---- */

struct idx_reader *
idx_reader_new(int fd, struct err *err)
{
	auto_of(idx_reader) struct idx_reader *r = xnew(1, sizeof *r);

	if (idx_open_db(fd, SQLITE_OPEN_READONLY, &r->db, err) < 0)
		return NULL;
	if (sqlite3_exec(r->db, "PRAGMA locking_mode=EXCLUSIVE; PRAGMA query_only=1", NULL, NULL,
			 NULL) != SQLITE_OK ||
	    sqlite3_prepare_v2(r->db,
			       "SELECT type, size, mode, uid, gid, mtime_ns, link, data_at"
			       " FROM entry WHERE path=?",
			       -1, &r->find, NULL) != SQLITE_OK) {
		idx_fail(r->db, "read", err);
		err->code = ERR_CORRUPT;
		return NULL;
	}
	return steal(&r);
}

void
idx_reader_free(struct idx_reader *r)
{
	if (!r)
		return;
	sqlite3_finalize(r->find);
	sqlite3_close(r->db);
	free(r);
}

int
idx_layer(struct idx_reader *r, struct frames_sum *out, uint64_t *out_entries, struct err *err)
{
	sqlite3_stmt *s = NULL;
	int result = -1;

	if (sqlite3_prepare_v2(r->db,
			       "SELECT digest, diff_id, bytes, raw_bytes, entries,"
			       " (SELECT count(*) FROM entry) FROM layer",
			       -1, &s, NULL) != SQLITE_OK)
		return idx_fail(r->db, "read", err);
	if (sqlite3_step(s) != SQLITE_ROW || sqlite3_column_bytes(s, 0) != DIGEST_BYTES ||
	    sqlite3_column_bytes(s, 1) != DIGEST_BYTES ||
	    sqlite3_column_int64(s, 4) != sqlite3_column_int64(s, 5)) {
		err_set(err, ERR_CORRUPT, "the index of a layer is not complete");
	} else {
		memcpy(out->digest.at, sqlite3_column_blob(s, 0), DIGEST_BYTES);
		memcpy(out->diff_id.at, sqlite3_column_blob(s, 1), DIGEST_BYTES);
		out->bytes = (uint64_t)sqlite3_column_int64(s, 2);
		out->raw_bytes = (uint64_t)sqlite3_column_int64(s, 3);
		*out_entries = (uint64_t)sqlite3_column_int64(s, 4);
		result = 0;
	}
	sqlite3_finalize(s);
	return result;
}

static bool
row_is(sqlite3_stmt *s, const struct entry *e)
{
	const struct str link = {sqlite3_column_blob(s, 6), (size_t)sqlite3_column_bytes(s, 6)};

	return str_is(str_of((const char *)sqlite3_column_text(s, 0)), type_text(e->type)) &&
	       sqlite3_column_int64(s, 1) == (int64_t)e->size &&
	       sqlite3_column_int64(s, 2) == e->mode && sqlite3_column_int64(s, 3) == e->uid &&
	       sqlite3_column_int64(s, 4) == e->gid && sqlite3_column_int64(s, 5) == mtime_ns(e) &&
	       str_equal(link, e->link);
}

int
idx_has(struct idx_reader *r, const struct entry *e, struct err *err)
{
	auto_buf key = BUF_MAX(ENTRY_PATH_MAX_BYTES + 1);

	bind_path(r->find, e, &key);
	const int stepped = sqlite3_step(r->find);
	const int result = stepped == SQLITE_ROW    ? row_is(r->find, e)
			   : stepped == SQLITE_DONE ? 0
						    : idx_fail(r->db, "read", err);
	sqlite3_reset(r->find);
	return result;
}

int
idx_find(struct idx_reader *r, struct str path, uint64_t *out_data_at, uint64_t *out_size,
	 struct err *err)
{
	int result = 0;

	sqlite3_bind_blob(r->find, 1, path.len ? path.at : "", (int)path.len, SQLITE_STATIC);
	const int stepped = sqlite3_step(r->find);
	if (stepped == SQLITE_ROW && sqlite3_column_type(r->find, 7) != SQLITE_NULL) {
		*out_size = (uint64_t)sqlite3_column_int64(r->find, 1);
		*out_data_at = (uint64_t)sqlite3_column_int64(r->find, 7);
		result = 1;
	} else if (stepped != SQLITE_ROW && stepped != SQLITE_DONE) {
		result = idx_fail(r->db, "read", err);
	}
	sqlite3_reset(r->find);
	return result;
}
