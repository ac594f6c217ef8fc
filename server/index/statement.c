#include "statement.h"

#include <stdarg.h>
#include <stdio.h>

int
statement_failed(struct sqlite3 *db, const char *what, struct err *err)
{
	const int code = sqlite3_errcode(db) & 0xff, sys = sqlite3_system_errno(db);

	if (code == SQLITE_FULL)
		return err_set(err, ERR_NO_SPACE, "%s: no space left on device", what);
	if (code == SQLITE_CORRUPT || code == SQLITE_NOTADB) {
		err_set(err, ERR_CORRUPT, "%s: %s", what, sqlite3_errmsg(db));
		return err_hint(err, "nothing was changed; put back a copy of index.db");
	}
	if ((code == SQLITE_IOERR || code == SQLITE_CANTOPEN) && sys)
		return err_sys(err, sys, "%s", what);
	return err_set(err, ERR_INTERNAL, "%s: %s", what, sqlite3_errmsg(db));
}

static int
failed_with(struct index *ix, struct err *err)
{
	return statement_failed(ix->db, "index.db", err);
}

static int
bind_all(sqlite3_stmt *st, const char *types, va_list ap)
{
	int rc = SQLITE_OK;

	for (int i = 1; *types && rc == SQLITE_OK; types++, i++) {
		switch (*types) {
		case 't':
			rc = sqlite3_bind_text(st, i, va_arg(ap, const char *), -1,
					       SQLITE_TRANSIENT);
			break;
		case 'i':
			rc = sqlite3_bind_int64(st, i, (sqlite3_int64)va_arg(ap, uint64_t));
			break;
		case 'd': {
			const struct digest *d = va_arg(ap, const struct digest *);
			rc = d ? sqlite3_bind_blob(st, i, d->at, DIGEST_BYTES, SQLITE_TRANSIENT)
			       : sqlite3_bind_null(st, i);
			break;
		}
		default: {
			const void *at = va_arg(ap, const void *);
			rc = sqlite3_bind_blob64(st, i, at, va_arg(ap, size_t), SQLITE_TRANSIENT);
		}
		}
	}
	return rc;
}

static int
open_stmt(struct index *ix, sqlite3_stmt **out, struct err *err, const char *sql, const char *types,
	  va_list ap)
{
	if (sqlite3_prepare_v2(ix->db, sql, -1, out, NULL) != SQLITE_OK ||
	    bind_all(*out, types, ap) != SQLITE_OK) {
		sqlite3_finalize(*out);
		*out = NULL;
		return failed_with(ix, err);
	}
	return 0;
}

int
statement_run(struct index *ix, struct err *err, const char *sql, const char *types, ...)
{
	sqlite3_stmt *st = NULL;
	va_list ap;

	va_start(ap, types);
	const int opened = open_stmt(ix, &st, err, sql, types, ap);
	va_end(ap);
	if (opened < 0)
		return -1;
	const int rc = sqlite3_step(st);
	const int result = rc == SQLITE_DONE || rc == SQLITE_ROW ? 0 : failed_with(ix, err);
	sqlite3_finalize(st);
	return result;
}

sqlite3_stmt *
statement_query(struct index *ix, struct err *err, const char *sql, const char *types, ...)
{
	sqlite3_stmt *st = NULL;
	va_list ap;

	va_start(ap, types);
	const int opened = open_stmt(ix, &st, err, sql, types, ap);
	va_end(ap);
	return opened < 0 ? NULL : st;
}

int
statement_next(struct index *ix, sqlite3_stmt *st, struct err *err)
{
	switch (sqlite3_step(st)) {
	case SQLITE_ROW:
		return 1;
	case SQLITE_DONE:
		return 0;
	default:
		return failed_with(ix, err);
	}
}

void
statement_text(sqlite3_stmt *st, int column, char *out, size_t size)
{
	const unsigned char *s = sqlite3_column_text(st, column);
	snprintf(out, size, "%s", s ? (const char *)s : "");
}

uint64_t
statement_number(sqlite3_stmt *st, int column)
{
	return (uint64_t)sqlite3_column_int64(st, column);
}

bool
statement_digest(sqlite3_stmt *st, int column, struct digest *out)
{
	if (sqlite3_column_bytes(st, column) != DIGEST_BYTES)
		return false;
	memcpy(out->at, sqlite3_column_blob(st, column), DIGEST_BYTES);
	return true;
}
