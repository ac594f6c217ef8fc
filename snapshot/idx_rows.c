/* Invariants
 *  1. a row that was handed out has a path as whiteout.h judges it, of a length that is allowed,
 * and numbers that fit what they are;
 *  2. nothing but the table that was made here is read: a view or a trigger of that name is
 * CORRUPT. */
#include "idx_rows.h"

#include <sqlite3.h>
#include <stdlib.h>

#define COLUMNS                                                                                    \
	"SELECT path, type, size, mode, uid, gid, mtime_ns, link, data_at, sparse FROM entry "

struct idx_rows {
	sqlite3 *db;        /* owned */
	sqlite3_stmt *find; /* owned */
};

struct idx_scan {
	struct idx_rows *r; /* lent */
	sqlite3_stmt *st;   /* owned; of all keys from ?1 on, below ?2 */
	struct buf before;
	bool bounded;
};

static int
corrupt(struct err *err, const char *why)
{
	return err_set(err, ERR_CORRUPT, "the index of a layer is damaged: %s", why);
}

static int
fail(struct idx_rows *r, struct err *err)
{
	idx_fail(r->db, "read", err);
	if (err->code == ERR_INTERNAL) /* what the disk says stays what it is */
		err->code = ERR_CORRUPT;
	return -1;
}

/* Of one row and one column. False: there is none, or it failed. */
static bool
ask(struct idx_rows *r, const char *sql, sqlite3_stmt **out)
{
	return sqlite3_prepare_v2(r->db, sql, -1, out, NULL) == SQLITE_OK &&
	       sqlite3_step(*out) == SQLITE_ROW;
}

static int
judge_schema(struct idx_rows *r, const struct digest *of, struct err *err)
{
	sqlite3_stmt *st = NULL;

	const bool table = ask(r, "SELECT count(*) FROM sqlite_schema WHERE type<>'table'", &st) &&
			   sqlite3_column_int(st, 0) == 0;
	sqlite3_finalize(st);
	if (!table)
		return corrupt(err, "it is of another form");
	st = NULL;
	const bool whole =
	    ask(r, "SELECT digest FROM layer", &st) && sqlite3_column_bytes(st, 0) == DIGEST_BYTES;
	const bool same =
	    whole && (!of || memcmp(sqlite3_column_blob(st, 0), of->at, DIGEST_BYTES) == 0);
	sqlite3_finalize(st);
	if (!whole)
		return corrupt(err, "it is not complete");
	return same ? 0 : corrupt(err, "it is of another archive");
}

struct idx_rows *
idx_rows_open(int fd, const struct digest *of, struct err *err)
{
	auto_of(idx_rows) struct idx_rows *r = xnew(1, sizeof *r);

	if (idx_open_db(fd, SQLITE_OPEN_READONLY, &r->db, err) < 0)
		return NULL;
	if (sqlite3_exec(r->db,
			 "PRAGMA locking_mode=EXCLUSIVE; PRAGMA query_only=1; "
			 "PRAGMA cell_size_check=1; PRAGMA cache_size=-512",
			 NULL, NULL, NULL) != SQLITE_OK ||
	    sqlite3_prepare_v2(r->db, COLUMNS "WHERE path=?", -1, &r->find, NULL) != SQLITE_OK) {
		fail(r, err);
		return NULL;
	}
	return judge_schema(r, of, err) < 0 ? NULL : steal(&r);
}

void
idx_rows_free(struct idx_rows *r)
{
	if (!r)
		return;
	sqlite3_finalize(r->find);
	sqlite3_close(r->db);
	free(r);
}

/* ---- one row ---- */

static bool
is_path(struct str p)
{
	struct str rest = p;

	if (p.len > ENTRY_PATH_MAX_BYTES || (p.len && memchr(p.at, '\0', p.len)))
		return false;
	if (p.len && (p.at[0] == '/' || p.at[p.len - 1] == '/'))
		return false;
	while (rest.len) {
		const char *slash = memchr(rest.at, '/', rest.len);
		const struct str part = {rest.at, slash ? (size_t)(slash - rest.at) : rest.len};
		if (part.len == 0 || str_is(part, ".") || str_is(part, ".."))
			return false;
		rest.at += part.len + (slash != NULL);
		rest.len -= part.len + (slash != NULL);
	}
	return true;
}

static bool
take_type(sqlite3_stmt *st, enum entry_type *out)
{
	static const char letters[ENTRY_TYPES + 1] = "fdlphwO";
	const char *text = (const char *)sqlite3_column_text(st, 1);

	if (!text || sqlite3_column_bytes(st, 1) != 1)
		return false;
	const char *at = memchr(letters, text[0], ENTRY_TYPES);
	if (!at)
		return false;
	*out = (enum entry_type)(at - letters);
	return true;
}

static bool
take_id(sqlite3_stmt *st, int column, uint32_t *out)
{
	const int64_t n = sqlite3_column_int64(st, column);

	*out = (uint32_t)n;
	return n >= 0 && n <= UINT32_MAX;
}

static struct str
blob_of(sqlite3_stmt *st, int column)
{
	const char *at = sqlite3_column_blob(st, column);
	return (struct str){at ? at : "", (size_t)sqlite3_column_bytes(st, column)};
}

static int
take_row(sqlite3_stmt *st, struct idx_row *out, struct err *err)
{
	struct idx_row row = {.key = blob_of(st, 0)};
	uint32_t mode;

	if (!take_type(st, &row.type))
		return corrupt(err, "an entry of no known type");
	row.path = row.key;
	if (row.type == ENTRY_OPAQUE) {
		if (row.key.len == 0 || row.key.at[row.key.len - 1] != '/')
			return corrupt(err, "a mark of no directory");
		row.path.len--;
	}
	const int64_t size = sqlite3_column_int64(st, 2), data_at = sqlite3_column_int64(st, 8);
	row.link = blob_of(st, 7);
	row.mtime_ns = sqlite3_column_int64(st, 6);
	row.sparse = sqlite3_column_int(st, 9) != 0;
	if (!is_path(row.path) || size < 0 || data_at < 0 || !take_id(st, 3, &mode) ||
	    !take_id(st, 4, &row.uid) || !take_id(st, 5, &row.gid) ||
	    row.link.len > ENTRY_PATH_MAX_BYTES || (row.type == ENTRY_LINK && !is_path(row.link)))
		return corrupt(err, "an entry that cannot be");
	row.mode = mode & 07777;
	row.size = (uint64_t)size;
	row.data_at = (uint64_t)data_at;
	*out = row;
	return 1;
}

int
idx_rows_find(struct idx_rows *r, struct str key, struct idx_row *out, struct err *err)
{
	sqlite3_reset(r->find);
	sqlite3_bind_blob(r->find, 1, key.len ? key.at : "", (int)key.len, SQLITE_TRANSIENT);
	const int stepped = sqlite3_step(r->find);
	if (stepped == SQLITE_DONE)
		return 0;
	return stepped == SQLITE_ROW ? take_row(r->find, out, err) : fail(r, err);
}

/* ---- scans ---- */

struct idx_scan *
idx_scan_new(struct idx_rows *r, struct err *err)
{
	auto_of(idx_scan) struct idx_scan *s = xnew(1, sizeof *s);

	*s = (struct idx_scan){.r = r, .before = BUF_MAX(ENTRY_PATH_MAX_BYTES + 2)};
	if (sqlite3_prepare_v2(r->db,
			       COLUMNS "WHERE path>=?1 AND (?2 IS NULL OR path<?2) ORDER BY path",
			       -1, &s->st, NULL) != SQLITE_OK) {
		fail(r, err);
		return NULL;
	}
	return steal(&s);
}

void
idx_scan_free(struct idx_scan *s)
{
	if (!s)
		return;
	sqlite3_finalize(s->st);
	buf_free(&s->before);
	free(s);
}

int
idx_scan_skip(struct idx_scan *s, struct str to, struct err *err)
{
	sqlite3_reset(s->st);
	if (sqlite3_bind_blob(s->st, 1, to.len ? to.at : "", (int)to.len, SQLITE_TRANSIENT) !=
	    SQLITE_OK)
		return fail(s->r, err);
	return 0;
}

int
idx_scan_range(struct idx_scan *s, struct str after, struct str before, struct err *err)
{
	auto_buf from = BUF_MAX(ENTRY_PATH_MAX_BYTES + 2);

	sqlite3_reset(s->st);
	buf_clear(&s->before);
	buf_str(&s->before, before);
	buf_str(&from, after);
	if (after.at)
		buf_char(&from, '\0'); /* the least key above it, were there one */
	if (buf_bad(&from) || buf_bad(&s->before))
		return err_set(err, ERR_USAGE, "a path is too long");
	if (before.at)
		sqlite3_bind_blob(s->st, 2, s->before.at, (int)s->before.len, SQLITE_STATIC);
	else
		sqlite3_bind_null(s->st, 2);
	return idx_scan_skip(s, buf_view(&from), err);
}

int
idx_scan_next(struct idx_scan *s, struct idx_row *out, struct err *err)
{
	const int stepped = sqlite3_step(s->st);

	if (stepped == SQLITE_DONE)
		return 0;
	return stepped == SQLITE_ROW ? take_row(s->st, out, err) : fail(s->r, err);
}
