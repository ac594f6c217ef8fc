#include "choice_rows.h"

#include <sqlite3.h>

static int
failed(struct index *ix, struct err *err)
{
	const int code = sqlite3_errcode(ix->db) & 0xff;
	return err_set(err, code == SQLITE_FULL ? ERR_NO_SPACE : ERR_INTERNAL, "index.db: %s",
		       sqlite3_errmsg(ix->db));
}

/* Binds these texts, in order; NULL ends them. */
static sqlite3_stmt *
prepare(struct index *ix, const char *sql, const char *const *texts, struct err *err)
{
	sqlite3_stmt *st = NULL;
	int rc = sqlite3_prepare_v2(ix->db, sql, -1, &st, NULL);

	for (int i = 0; texts[i] && rc == SQLITE_OK; i++)
		rc = sqlite3_bind_text(st, i + 1, texts[i], -1, SQLITE_TRANSIENT);
	if (rc == SQLITE_OK)
		return st;
	failed(ix, err);
	sqlite3_finalize(st);
	return NULL;
}

static const char *
text_at(sqlite3_stmt *st, int column)
{
	const unsigned char *s = sqlite3_column_text(st, column);
	return s ? (const char *)s : "";
}

int
choice_rows_list(struct index *ix, const char *session, choice_row_fn fn, void *ctx,
		 struct err *err)
{
	const char *const texts[] = {session, NULL};
	sqlite3_stmt *st = prepare(
	    ix, "SELECT key,value FROM session_choices WHERE session=? ORDER BY key", texts, err);
	int rc, result = 0;

	if (!st)
		return -1;
	while (result == 0 && (rc = sqlite3_step(st)) != SQLITE_DONE)
		result = rc == SQLITE_ROW ? fn(ctx, text_at(st, 0), text_at(st, 1), err)
					  : failed(ix, err);
	sqlite3_finalize(st);
	return result;
}

int
choice_rows_put(struct index *ix, const char *session, const char *key, const char *value,
		struct err *err)
{
	const char *const texts[] = {session, key, value, NULL};
	sqlite3_stmt *st =
	    prepare(ix, "INSERT OR REPLACE INTO session_choices VALUES(?,?,?)", texts, err);

	if (!st)
		return -1;
	const int result = sqlite3_step(st) == SQLITE_DONE ? 0 : failed(ix, err);
	sqlite3_finalize(st);
	return result;
}
