/* Rows of sessions, of their limits and spools; transactions. */
#include "rows.h"
#include "schema.h"
#include "statement.h"

int
index_open(struct index *ix, int state_dir, struct err *err)
{
	ix->db = NULL;
	return schema_open(state_dir, &ix->db, err);
}

void
index_close(struct index *ix)
{
	sqlite3_close(ix->db);
	ix->db = NULL;
}

int
index_begin(struct index *ix, struct err *err)
{
	return statement_run(ix, err, "BEGIN IMMEDIATE", "");
}

/* What was done for one transaction is undone with it. */
static int
end_soon(struct index *ix, struct err *err)
{
	if (!ix->soon)
		return 0;
	ix->soon = false;
	return statement_run(ix, err, "PRAGMA synchronous=FULL", "");
}

int
index_begin_soon(struct index *ix, struct err *err)
{
	struct err ignored;

	if (statement_run(ix, err, "PRAGMA synchronous=NORMAL", "") < 0)
		return -1;
	ix->soon = true;
	if (index_begin(ix, err) == 0)
		return 0;
	(void)!end_soon(ix, &ignored);
	return -1;
}

int
index_commit(struct index *ix, struct err *err)
{
	if (statement_run(ix, err, "COMMIT", "") < 0) {
		index_rollback(ix);
		return -1;
	}
	return end_soon(ix, err);
}

void
index_rollback(struct index *ix)
{
	struct err ignored;

	if (!sqlite3_get_autocommit(ix->db))
		sqlite3_exec(ix->db, "ROLLBACK", NULL, NULL, NULL);
	(void)!end_soon(ix, &ignored);
}

/* ---- sessions ---- */

static int
check_changed(struct index *ix, const struct session_row *r, struct err *err)
{
	if (sqlite3_changes(ix->db) == 1)
		return 0;
	return err_set(err, ERR_AGAIN, "session %s has another owner, or another head, by now",
		       r->name);
}

int
index_put_session(struct index *ix, const struct session_row *r, struct err *err)
{
	if (statement_run(ix, err,
			  "INSERT INTO "
			  "sessions(id,name,state,reason,image,head,slot,upper,unclean,fence,owner,"
			  "created_ns,used_ns,deleted_ns,network,labels) "
			  "VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16)"
			  " ON CONFLICT(id) DO UPDATE SET "
			  "name=?2,state=?3,reason=?4,image=?5,head=?6,slot=?7,"
			  "upper=?8,unclean=?9,fence=?10,used_ns=?13,deleted_ns=?14,network=?15,"
			  "labels=?16 WHERE fence<=?10",
			  "tttttdiiiitiiitt", r->id, r->name, r->state, r->reason, r->image,
			  r->has_head ? &r->head : NULL, (uint64_t)r->slot, (uint64_t)r->upper,
			  (uint64_t)r->unclean, r->fence, r->owner, r->created_ns, r->used_ns,
			  r->deleted_ns, r->network, r->labels) < 0)
		return -1;
	return check_changed(ix, r, err);
}

int
index_put_session_soon(struct index *ix, const struct session_row *r, struct err *err)
{
	if (statement_run(ix, err, "PRAGMA synchronous=NORMAL", "") < 0)
		return -1;
	const int result = index_put_session(ix, r, err);
	struct err back;
	if (statement_run(ix, result < 0 ? &back : err, "PRAGMA synchronous=FULL", "") < 0)
		return -1;
	return result;
}

int
index_move_session(struct index *ix, const struct session_row *r, const struct digest *expected,
		   struct err *err)
{
	if (statement_run(ix, err,
			  "UPDATE sessions SET "
			  "state=?2,reason=?3,head=?4,upper=?5,unclean=?6,used_ns=?7,deleted_ns=?8 "
			  "WHERE id=?1 AND fence=?9 AND head IS ?10",
			  "tttdiiiiid", r->id, r->state, r->reason, r->has_head ? &r->head : NULL,
			  (uint64_t)r->upper, (uint64_t)r->unclean, r->used_ns, r->deleted_ns,
			  r->fence, expected) < 0)
		return -1;
	return check_changed(ix, r, err);
}

int
index_drop_session(struct index *ix, const char *id, struct err *err)
{
	return statement_run(ix, err, "DELETE FROM sessions WHERE id=?", "t", id);
}

int
index_erase_session(struct index *ix, const char *id, struct err *err)
{
	static const char *const statements[] = {
	    "DELETE FROM uppers WHERE session=?",
	    "DELETE FROM calls WHERE session=?",
	    "DELETE FROM spools WHERE session=?",
	    "DELETE FROM sessions WHERE id=?",
	};

	if (index_begin(ix, err) < 0)
		return -1;
	for (size_t i = 0; i < sizeof statements / sizeof *statements; i++)
		if (statement_run(ix, err, statements[i], "t", id) < 0) {
			index_rollback(ix);
			return -1;
		}
	return index_commit(ix, err);
}

int
index_list_sessions(struct index *ix, session_row_fn fn, void *ctx, struct err *err)
{
	sqlite3_stmt *st = statement_query(
	    ix, err,
	    "SELECT id,name,state,reason,image,head,slot,upper,unclean,fence,owner,"
	    "created_ns,used_ns,deleted_ns,network,labels FROM sessions ORDER BY name, created_ns",
	    "");
	if (!st)
		return -1;
	int got;
	while ((got = statement_next(ix, st, err)) == 1) {
		struct session_row r = {0};
		statement_text(st, 0, r.id, sizeof r.id);
		statement_text(st, 1, r.name, sizeof r.name);
		statement_text(st, 2, r.state, sizeof r.state);
		statement_text(st, 3, r.reason, sizeof r.reason);
		statement_text(st, 4, r.image, sizeof r.image);
		r.has_head = statement_digest(st, 5, &r.head);
		r.slot = (unsigned)statement_number(st, 6);
		r.upper = (unsigned)statement_number(st, 7);
		r.unclean = statement_number(st, 8) != 0;
		r.fence = statement_number(st, 9);
		statement_text(st, 10, r.owner, sizeof r.owner);
		r.created_ns = statement_number(st, 11);
		r.used_ns = statement_number(st, 12);
		r.deleted_ns = statement_number(st, 13);
		statement_text(st, 14, r.network, sizeof r.network);
		statement_text(st, 15, r.labels, sizeof r.labels);
		got = fn(ctx, &r, err);
		if (got != 0)
			break;
	}
	sqlite3_finalize(st);
	return got;
}

/* ---- limits ---- */

int
index_put_limit(struct index *ix, const char *session, const struct limit_value_row *r,
		struct err *err)
{
	if (!r->has_ceiling)
		return statement_run(ix, err,
				     "INSERT OR REPLACE INTO session_limits VALUES(?,?,?,NULL)",
				     "tti", session, r->key, r->value);
	return statement_run(ix, err, "INSERT OR REPLACE INTO session_limits VALUES(?,?,?,?)",
			     "ttii", session, r->key, r->value, r->ceiling);
}

int
index_drop_limit(struct index *ix, const char *session, const char *key, struct err *err)
{
	return statement_run(ix, err, "DELETE FROM session_limits WHERE session=? AND key=?", "tt",
			     session, key);
}

int
index_list_limits(struct index *ix, const char *session, limit_row_fn fn, void *ctx,
		  struct err *err)
{
	sqlite3_stmt *st =
	    statement_query(ix, err,
			    "SELECT key,value,ceiling,ceiling IS NOT NULL FROM session_limits "
			    "WHERE session=? ORDER BY key",
			    "t", session);
	if (!st)
		return -1;
	int got;
	while ((got = statement_next(ix, st, err)) == 1) {
		struct limit_value_row r = {.value = statement_number(st, 1),
					    .ceiling = statement_number(st, 2),
					    .has_ceiling = statement_number(st, 3) != 0};
		statement_text(st, 0, r.key, sizeof r.key);
		got = fn(ctx, &r, err);
		if (got != 0)
			break;
	}
	sqlite3_finalize(st);
	return got;
}

int
index_spool_last(struct index *ix, const char *session, uint64_t *out, struct err *err)
{
	sqlite3_stmt *st =
	    statement_query(ix, err, "SELECT last FROM spools WHERE session=?", "t", session);
	if (!st)
		return -1;
	const int got = statement_next(ix, st, err);
	if (got >= 0)
		*out = got == 1 ? statement_number(st, 0) : 0;
	sqlite3_finalize(st);
	return got < 0 ? -1 : 0;
}

int
index_put_spool_last(struct index *ix, const char *session, uint64_t last, struct err *err)
{
	return statement_run(ix, err, "INSERT OR REPLACE INTO spools VALUES(?,?)", "ti", session,
			     last);
}
