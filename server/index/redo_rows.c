/* The way forward of undone sessions, and the step back from a snapshot. The highest position is
 * what the next redo comes to. */
#include "rows.h"
#include "statement.h"

int
index_find_parent(struct index *ix, const struct digest *snapshot, struct parent_row *out,
		  struct err *err)
{
	sqlite3_stmt *st = statement_query(
	    ix, err, "SELECT session,parent FROM snapshots WHERE digest=?", "d", snapshot);
	if (!st)
		return -1;
	const int got = statement_next(ix, st, err);
	if (got == 1) {
		statement_text(st, 0, out->session, sizeof out->session);
		out->has_parent = statement_digest(st, 1, &out->parent);
	}
	sqlite3_finalize(st);
	return got;
}

int
index_push_redo(struct index *ix, const char *session, const struct digest *snapshot,
		struct err *err)
{
	return statement_run(ix, err,
			     "INSERT INTO redo SELECT ?1,coalesce(max(position)+1,0),?2 FROM redo "
			     "WHERE session=?1",
			     "td", session, snapshot);
}

int
index_pop_redo(struct index *ix, const char *session, unsigned n, struct err *err)
{
	return statement_run(ix, err,
			     "DELETE FROM redo WHERE session=?1 AND position IN (SELECT position "
			     "FROM redo WHERE session=?1 ORDER BY position DESC LIMIT ?2)",
			     "ti", session, (uint64_t)n);
}

int
index_clear_redo(struct index *ix, const char *session, struct err *err)
{
	return statement_run(ix, err, "DELETE FROM redo WHERE session=?", "t", session);
}

int
index_find_redo(struct index *ix, const char *session, unsigned n, struct digest *out,
		struct err *err)
{
	sqlite3_stmt *st = statement_query(
	    ix, err, "SELECT snapshot FROM redo WHERE session=? ORDER BY position DESC", "t",
	    session);
	unsigned count = 0;
	int got;

	if (!st)
		return -1;
	while ((got = statement_next(ix, st, err)) == 1)
		if (++count == n)
			statement_digest(st, 0, out);
	sqlite3_finalize(st);
	return got < 0 ? -1 : (int)count;
}
