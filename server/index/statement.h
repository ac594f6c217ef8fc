/* Every statement on the index, as one small language over SQLite: bind by a type string, read
 * columns in order. Values are always bound, never pasted into a statement. */
#ifndef BERTH_STATEMENT_H
#define BERTH_STATEMENT_H

#include "rows.h"

#include <sqlite3.h>

/* What SQLite has just refused, in our words; what: the file and the act. Returns -1. */
int statement_failed(struct sqlite3 *db, const char *what, struct err *err);
/* Binds by type: t text (const char *), i integer (uint64_t), d digest (const struct digest *, may
 * be NULL), b bytes (const void *, size_t). This one yields no rows. */
int statement_run(struct index *ix, struct err *err, const char *sql, const char *types,
		  ...) must_check;
/* NULL, or the caller's to finalize. */
sqlite3_stmt *statement_query(struct index *ix, struct err *err, const char *sql, const char *types,
			      ...) must_check;
/* 1 a row, 0 the end, -1. */
int statement_next(struct index *ix, sqlite3_stmt *st, struct err *err) must_check;
void statement_text(sqlite3_stmt *st, int column, char *out, size_t size);
uint64_t statement_number(sqlite3_stmt *st, int column);
/* false: it is none. */
bool statement_digest(sqlite3_stmt *st, int column, struct digest *out);

#endif
