/* Rows of calls. */
#include "rows.h"
#include "statement.h"

int
index_put_call_start(struct index *ix, const struct call_row *r, struct err *err)
{
	return statement_run(
	    ix, err,
	    "INSERT OR IGNORE INTO calls(id,session,principal,command,started_ns,kind) "
	    "VALUES(?,?,?,?,?,?)",
	    "ttttit", r->id, r->session, r->principal, r->command, r->started_ns,
	    r->kind[0] ? r->kind : "exec");
}

int
index_put_call_end(struct index *ix, const struct call_row *r, struct err *err)
{
	if (index_put_call_start(ix, r, err) < 0) /* its start may be on a spool that was lost */
		return -1;
	return statement_run(
	    ix, err,
	    "UPDATE calls SET ended_ns=?2,exit_status=?3,signal=?4,ended_by=?5,out_bytes=?6,"
	    "err_bytes=?7,wall_ns=?8,cpu_ns=?9,peak_bytes=?10,out_sha256=?11,err_sha256=?12,"
	    "left_running=?13,limit_hit=?15,cpu_told=?16 "
	    "WHERE id=?1 AND session=?14",
	    "tiiitiiiiittttti", r->id, r->ended_ns, (uint64_t)r->exit_status, (uint64_t)r->signal,
	    r->ended_by, r->out_bytes, r->err_bytes, r->wall_ns, r->cpu_ns, r->peak_bytes,
	    r->out_sha256, r->err_sha256, r->left_running, r->session, r->limit_hit,
	    (uint64_t)r->cpu_told);
}

int
index_lose_calls(struct index *ix, const char *session, uint64_t now_ns, struct err *err)
{
	return statement_run(
	    ix, err,
	    "UPDATE calls SET ended_ns=?2, ended_by='lost' WHERE session=?1 AND ended_by=''", "ti",
	    session, now_ns);
}

const char *
index_cpu_by(const struct call_row *r)
{
	if (r->cpu_ns == 0)
		return "";
	return r->cpu_told ? "init" : "cgroup";
}

#define CALL_COLUMNS                                                                               \
	"SELECT id,session,principal,command,started_ns,ended_ns,exit_status,signal,ended_by,"     \
	"out_bytes,err_bytes,wall_ns,cpu_ns,peak_bytes,out_sha256,err_sha256,left_running,"        \
	"limit_hit,kind,cpu_told FROM calls "

static void
read_call(sqlite3_stmt *st, struct call_row *r)
{
	*r = (struct call_row){0};
	statement_text(st, 0, r->id, sizeof r->id);
	statement_text(st, 1, r->session, sizeof r->session);
	statement_text(st, 2, r->principal, sizeof r->principal);
	statement_text(st, 3, r->command, sizeof r->command);
	r->started_ns = statement_number(st, 4);
	r->ended_ns = statement_number(st, 5);
	r->exit_status = (unsigned)statement_number(st, 6);
	r->signal = (unsigned)statement_number(st, 7);
	statement_text(st, 8, r->ended_by, sizeof r->ended_by);
	r->out_bytes = statement_number(st, 9);
	r->err_bytes = statement_number(st, 10);
	r->wall_ns = statement_number(st, 11);
	r->cpu_ns = statement_number(st, 12);
	r->peak_bytes = statement_number(st, 13);
	statement_text(st, 14, r->out_sha256, sizeof r->out_sha256);
	statement_text(st, 15, r->err_sha256, sizeof r->err_sha256);
	statement_text(st, 16, r->left_running, sizeof r->left_running);
	statement_text(st, 17, r->limit_hit, sizeof r->limit_hit);
	statement_text(st, 18, r->kind, sizeof r->kind);
	r->cpu_told = statement_number(st, 19) != 0;
}

static int
list_calls(struct index *ix, sqlite3_stmt *take_st, call_row_fn fn, void *ctx, struct err *err)
{
	sqlite3_stmt *st = take_st;
	if (!st)
		return -1;
	int got;
	while ((got = statement_next(ix, st, err)) == 1) {
		struct call_row r;
		read_call(st, &r);
		got = fn(ctx, &r, err);
		if (got != 0)
			break;
	}
	sqlite3_finalize(st);
	return got;
}

int
index_list_calls(struct index *ix, const char *session, unsigned most, call_row_fn fn, void *ctx,
		 struct err *err)
{
	return list_calls(ix,
			  statement_query(ix, err,
					  CALL_COLUMNS
					  "WHERE session=? ORDER BY started_ns DESC LIMIT ?",
					  "ti", session, (uint64_t)most),
			  fn, ctx, err);
}

int
index_list_open_calls(struct index *ix, const char *session, call_row_fn fn, void *ctx,
		      struct err *err)
{
	return list_calls(ix,
			  statement_query(ix, err,
					  CALL_COLUMNS
					  "WHERE session=? AND ended_by='' ORDER BY started_ns",
					  "t", session),
			  fn, ctx, err);
}

int
index_find_call(struct index *ix, const char *id, struct call_row *out, struct err *err)
{
	sqlite3_stmt *st = statement_query(ix, err, CALL_COLUMNS "WHERE id=?", "t", id);
	if (!st)
		return -1;
	const int got = statement_next(ix, st, err);
	if (got == 1)
		read_call(st, out);
	sqlite3_finalize(st);
	return got;
}
