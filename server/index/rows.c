/* Every statement on the index, as one small language over SQLite: bind by a type string, read
 * columns in order. Values are always bound, never pasted into a statement. */
#include "rows.h"
#include "schema.h"

#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>

static int
failed_with(struct index *ix, struct err *err)
{
	const int code = sqlite3_errcode(ix->db) & 0xff;
	if (code == SQLITE_FULL)
		return err_set(err, ERR_NO_SPACE, "write index.db: no space left on device");
	if (code == SQLITE_CORRUPT || code == SQLITE_NOTADB)
		return err_set(err, ERR_CORRUPT, "index.db: %s", sqlite3_errmsg(ix->db));
	return err_set(err, ERR_INTERNAL, "index.db: %s", sqlite3_errmsg(ix->db));
}

/* Binds by type: t text (const char *), i integer (uint64_t), d digest (const struct digest *, may
 * be NULL), b bytes (const void *, size_t). */
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

/* A statement that yields no rows. */
static int
run(struct index *ix, struct err *err, const char *sql, const char *types, ...)
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

static sqlite3_stmt *
query(struct index *ix, struct err *err, const char *sql, const char *types, ...)
{
	sqlite3_stmt *st = NULL;
	va_list ap;

	va_start(ap, types);
	const int opened = open_stmt(ix, &st, err, sql, types, ap);
	va_end(ap);
	return opened < 0 ? NULL : st;
}

/* 1 a row, 0 the end, -1. */
static int
next(struct index *ix, sqlite3_stmt *st, struct err *err)
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

static void
text_at(sqlite3_stmt *st, int column, char *out, size_t size)
{
	const unsigned char *s = sqlite3_column_text(st, column);
	snprintf(out, size, "%s", s ? (const char *)s : "");
}

static uint64_t
int_at(sqlite3_stmt *st, int column)
{
	return (uint64_t)sqlite3_column_int64(st, column);
}

static bool
digest_at(sqlite3_stmt *st, int column, struct digest *out)
{
	if (sqlite3_column_bytes(st, column) != DIGEST_BYTES)
		return false;
	memcpy(out->at, sqlite3_column_blob(st, column), DIGEST_BYTES);
	return true;
}

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
	return run(ix, err, "BEGIN IMMEDIATE", "");
}

/* What was done for one transaction is undone with it. */
static int
end_soon(struct index *ix, struct err *err)
{
	if (!ix->soon)
		return 0;
	ix->soon = false;
	return run(ix, err, "PRAGMA synchronous=FULL", "");
}

int
index_begin_soon(struct index *ix, struct err *err)
{
	struct err ignored;

	if (run(ix, err, "PRAGMA synchronous=NORMAL", "") < 0)
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
	if (run(ix, err, "COMMIT", "") < 0) {
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
	if (run(ix, err,
		"INSERT INTO "
		"sessions(id,name,state,reason,image,head,slot,upper,unclean,fence,owner,"
		"created_ns,used_ns,deleted_ns,network) "
		"VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15)"
		" ON CONFLICT(id) DO UPDATE SET "
		"name=?2,state=?3,reason=?4,image=?5,head=?6,slot=?7,"
		"upper=?8,unclean=?9,fence=?10,used_ns=?13,deleted_ns=?14,network=?15 WHERE fence<=?10",
		"tttttdiiiitiiit", r->id, r->name, r->state, r->reason, r->image,
		r->has_head ? &r->head : NULL, (uint64_t)r->slot, (uint64_t)r->upper,
		(uint64_t)r->unclean, r->fence, r->owner, r->created_ns, r->used_ns,
		r->deleted_ns, r->network) < 0)
		return -1;
	return check_changed(ix, r, err);
}

int
index_put_session_soon(struct index *ix, const struct session_row *r, struct err *err)
{
	if (run(ix, err, "PRAGMA synchronous=NORMAL", "") < 0)
		return -1;
	const int result = index_put_session(ix, r, err);
	struct err back;
	if (run(ix, result < 0 ? &back : err, "PRAGMA synchronous=FULL", "") < 0)
		return -1;
	return result;
}

int
index_move_session(struct index *ix, const struct session_row *r, const struct digest *expected,
		   struct err *err)
{
	if (run(ix, err,
		"UPDATE sessions SET "
		"state=?2,reason=?3,head=?4,upper=?5,unclean=?6,used_ns=?7,deleted_ns=?8 "
		"WHERE id=?1 AND fence=?9 AND head IS ?10",
		"tttdiiiiid", r->id, r->state, r->reason, r->has_head ? &r->head : NULL,
		(uint64_t)r->upper, (uint64_t)r->unclean, r->used_ns, r->deleted_ns, r->fence,
		expected) < 0)
		return -1;
	return check_changed(ix, r, err);
}

int
index_drop_session(struct index *ix, const char *id, struct err *err)
{
	return run(ix, err, "DELETE FROM sessions WHERE id=?", "t", id);
}

int
index_list_sessions(struct index *ix, session_row_fn fn, void *ctx, struct err *err)
{
	sqlite3_stmt *st =
	    query(ix, err,
		  "SELECT id,name,state,reason,image,head,slot,upper,unclean,fence,owner,"
		  "created_ns,used_ns,deleted_ns,network FROM sessions ORDER BY name, created_ns",
		  "");
	if (!st)
		return -1;
	int got;
	while ((got = next(ix, st, err)) == 1) {
		struct session_row r = {0};
		text_at(st, 0, r.id, sizeof r.id);
		text_at(st, 1, r.name, sizeof r.name);
		text_at(st, 2, r.state, sizeof r.state);
		text_at(st, 3, r.reason, sizeof r.reason);
		text_at(st, 4, r.image, sizeof r.image);
		r.has_head = digest_at(st, 5, &r.head);
		r.slot = (unsigned)int_at(st, 6);
		r.upper = (unsigned)int_at(st, 7);
		r.unclean = int_at(st, 8) != 0;
		r.fence = int_at(st, 9);
		text_at(st, 10, r.owner, sizeof r.owner);
		r.created_ns = int_at(st, 11);
		r.used_ns = int_at(st, 12);
		r.deleted_ns = int_at(st, 13);
		text_at(st, 14, r.network, sizeof r.network);
		got = fn(ctx, &r, err);
		if (got != 0)
			break;
	}
	sqlite3_finalize(st);
	return got;
}

/* ---- layers and snapshots ---- */

int
index_put_layer(struct index *ix, const struct layer_row *r, struct err *err)
{
	return run(ix, err, "INSERT OR IGNORE INTO layers VALUES(?,?,?,?,?)", "ddiii", &r->digest,
		   &r->diff_id, r->bytes, r->raw_bytes, r->entries);
}

int
index_put_snapshot(struct index *ix, const struct snapshot_row *r, const struct digest *layers,
		   size_t n_layers, struct err *err)
{
	if (run(ix, err,
		"INSERT OR REPLACE INTO "
		"snapshots(digest,session,parent,name,note,made_by,image,created_ns,"
		"bytes,total_bytes) VALUES(?,?,?,NULLIF(?,''),?,?,?,?,?,?)",
		"dtdttttiii", &r->digest, r->session, r->has_parent ? &r->parent : NULL, r->name,
		r->note, r->made_by, r->image, r->created_ns, r->bytes, r->total_bytes) < 0)
		return -1;
	for (size_t i = 0; i < n_layers; i++)
		if (run(ix, err, "INSERT OR REPLACE INTO snapshot_layers VALUES(?,?,?)", "did",
			&r->digest, (uint64_t)i, &layers[i]) < 0)
			return -1;
	return 0;
}

int
index_drop_snapshot(struct index *ix, const struct digest *digest, struct err *err)
{
	return run(ix, err, "DELETE FROM snapshots WHERE digest=?", "d", digest);
}

int
index_list_snapshots(struct index *ix, const char *session, snapshot_row_fn fn, void *ctx,
		     struct err *err)
{
	sqlite3_stmt *st =
	    query(ix, err,
		  "SELECT digest,session,parent,name,note,made_by,image,created_ns,bytes,"
		  "total_bytes FROM snapshots WHERE session=? ORDER BY created_ns, rowid",
		  "t", session);
	if (!st)
		return -1;
	int got;
	while ((got = next(ix, st, err)) == 1) {
		struct snapshot_row r = {0};
		digest_at(st, 0, &r.digest);
		text_at(st, 1, r.session, sizeof r.session);
		r.has_parent = digest_at(st, 2, &r.parent);
		text_at(st, 3, r.name, sizeof r.name);
		text_at(st, 4, r.note, sizeof r.note);
		text_at(st, 5, r.made_by, sizeof r.made_by);
		text_at(st, 6, r.image, sizeof r.image);
		r.created_ns = int_at(st, 7);
		r.bytes = int_at(st, 8);
		r.total_bytes = int_at(st, 9);
		got = fn(ctx, &r, err);
		if (got != 0)
			break;
	}
	sqlite3_finalize(st);
	return got;
}

int
index_list_layers(struct index *ix, const struct digest *snapshot, layer_row_fn fn, void *ctx,
		  struct err *err)
{
	sqlite3_stmt *st =
	    query(ix, err,
		  "SELECT l.digest,l.diff_id,l.bytes,l.raw_bytes,l.entries FROM layers l JOIN "
		  "snapshot_layers s ON s.layer=l.digest WHERE s.snapshot=? ORDER BY s.position",
		  "d", snapshot);
	if (!st)
		return -1;
	int got;
	while ((got = next(ix, st, err)) == 1) {
		struct layer_row r = {0};
		digest_at(st, 0, &r.digest);
		digest_at(st, 1, &r.diff_id);
		r.bytes = int_at(st, 2);
		r.raw_bytes = int_at(st, 3);
		r.entries = int_at(st, 4);
		got = fn(ctx, &r, err);
		if (got != 0)
			break;
	}
	sqlite3_finalize(st);
	return got;
}

/* ---- kept uppers ---- */

int
index_put_upper(struct index *ix, const struct upper_row *r, struct err *err)
{
	return run(ix, err, "INSERT OR REPLACE INTO uppers VALUES(?,?,?,?,?)", "tibti", r->session,
		   (uint64_t)r->n, (const void *)r->layers, r->n_layers * sizeof *r->layers,
		   r->boot, (uint64_t)r->synced);
}

int
index_drop_upper(struct index *ix, const char *session, unsigned n, struct err *err)
{
	return run(ix, err, "DELETE FROM uppers WHERE session=? AND n=?", "ti", session,
		   (uint64_t)n);
}

int
index_list_uppers(struct index *ix, const char *session, upper_row_fn fn, void *ctx,
		  struct err *err)
{
	sqlite3_stmt *st = query(
	    ix, err, "SELECT session,n,layers,boot,synced FROM uppers WHERE session=? ORDER BY n",
	    "t", session);
	if (!st)
		return -1;
	int got;
	while ((got = next(ix, st, err)) == 1) {
		struct upper_row r = {0};
		text_at(st, 0, r.session, sizeof r.session);
		r.n = (unsigned)int_at(st, 1);
		const size_t bytes = (size_t)sqlite3_column_bytes(st, 2);
		if (bytes % sizeof *r.layers || bytes > sizeof r.layers) {
			got = err_set(err, ERR_CORRUPT,
				      "index.db: a kept upper with %zu bytes of layers", bytes);
			break;
		}
		r.n_layers = bytes / sizeof *r.layers;
		if (bytes)
			memcpy(r.layers, sqlite3_column_blob(st, 2), bytes);
		text_at(st, 3, r.boot, sizeof r.boot);
		r.synced = int_at(st, 4) != 0;
		got = fn(ctx, &r, err);
		if (got != 0)
			break;
	}
	sqlite3_finalize(st);
	return got;
}

/* ---- calls ---- */

int
index_put_call_start(struct index *ix, const struct call_row *r, struct err *err)
{
	return run(ix, err,
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
	return run(ix, err,
		   "UPDATE calls SET ended_ns=?2,exit_status=?3,signal=?4,ended_by=?5,out_bytes=?6,"
		   "err_bytes=?7,wall_ns=?8,cpu_ns=?9,peak_bytes=?10,out_sha256=?11,err_sha256=?12,"
		   "left_running=?13,limit_hit=?15,cpu_told=?16 "
		   "WHERE id=?1 AND session=?14",
		   "tiiitiiiiittttti", r->id, r->ended_ns, (uint64_t)r->exit_status,
		   (uint64_t)r->signal, r->ended_by, r->out_bytes, r->err_bytes, r->wall_ns,
		   r->cpu_ns, r->peak_bytes, r->out_sha256, r->err_sha256, r->left_running,
		   r->session, r->limit_hit, (uint64_t)r->cpu_told);
}

int
index_lose_calls(struct index *ix, const char *session, uint64_t now_ns, struct err *err)
{
	return run(ix, err,
		   "UPDATE calls SET ended_ns=?2, ended_by='lost' WHERE session=?1 AND ended_by=''",
		   "ti", session, now_ns);
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
	text_at(st, 0, r->id, sizeof r->id);
	text_at(st, 1, r->session, sizeof r->session);
	text_at(st, 2, r->principal, sizeof r->principal);
	text_at(st, 3, r->command, sizeof r->command);
	r->started_ns = int_at(st, 4);
	r->ended_ns = int_at(st, 5);
	r->exit_status = (unsigned)int_at(st, 6);
	r->signal = (unsigned)int_at(st, 7);
	text_at(st, 8, r->ended_by, sizeof r->ended_by);
	r->out_bytes = int_at(st, 9);
	r->err_bytes = int_at(st, 10);
	r->wall_ns = int_at(st, 11);
	r->cpu_ns = int_at(st, 12);
	r->peak_bytes = int_at(st, 13);
	text_at(st, 14, r->out_sha256, sizeof r->out_sha256);
	text_at(st, 15, r->err_sha256, sizeof r->err_sha256);
	text_at(st, 16, r->left_running, sizeof r->left_running);
	text_at(st, 17, r->limit_hit, sizeof r->limit_hit);
	text_at(st, 18, r->kind, sizeof r->kind);
	r->cpu_told = int_at(st, 19) != 0;
}

static int
list_calls(struct index *ix, sqlite3_stmt *take_st, call_row_fn fn, void *ctx, struct err *err)
{
	sqlite3_stmt *st = take_st;
	if (!st)
		return -1;
	int got;
	while ((got = next(ix, st, err)) == 1) {
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
			  query(ix, err, CALL_COLUMNS "WHERE session=? ORDER BY started_ns DESC LIMIT ?",
				"ti", session, (uint64_t)most),
			  fn, ctx, err);
}

int
index_list_open_calls(struct index *ix, const char *session, call_row_fn fn, void *ctx,
		      struct err *err)
{
	return list_calls(ix,
			  query(ix, err, CALL_COLUMNS "WHERE session=? AND ended_by='' ORDER BY started_ns",
				"t", session),
			  fn, ctx, err);
}

int
index_find_call(struct index *ix, const char *id, struct call_row *out, struct err *err)
{
	sqlite3_stmt *st = query(ix, err, CALL_COLUMNS "WHERE id=?", "t", id);
	if (!st)
		return -1;
	const int got = next(ix, st, err);
	if (got == 1)
		read_call(st, out);
	sqlite3_finalize(st);
	return got;
}

/* ---- limits ---- */

int
index_put_limit(struct index *ix, const char *session, const struct limit_value_row *r,
		struct err *err)
{
	if (!r->has_ceiling)
		return run(ix, err, "INSERT OR REPLACE INTO session_limits VALUES(?,?,?,NULL)",
			   "tti", session, r->key, r->value);
	return run(ix, err, "INSERT OR REPLACE INTO session_limits VALUES(?,?,?,?)", "ttii",
		   session, r->key, r->value, r->ceiling);
}

int
index_drop_limit(struct index *ix, const char *session, const char *key, struct err *err)
{
	return run(ix, err, "DELETE FROM session_limits WHERE session=? AND key=?", "tt", session,
		   key);
}

int
index_list_limits(struct index *ix, const char *session, limit_row_fn fn, void *ctx,
		  struct err *err)
{
	sqlite3_stmt *st = query(ix, err,
				 "SELECT key,value,ceiling,ceiling IS NOT NULL FROM session_limits "
				 "WHERE session=? ORDER BY key",
				 "t", session);
	if (!st)
		return -1;
	int got;
	while ((got = next(ix, st, err)) == 1) {
		struct limit_value_row r = {.value = int_at(st, 1),
					    .ceiling = int_at(st, 2),
					    .has_ceiling = int_at(st, 3) != 0};
		text_at(st, 0, r.key, sizeof r.key);
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
	sqlite3_stmt *st = query(ix, err, "SELECT last FROM spools WHERE session=?", "t", session);
	if (!st)
		return -1;
	const int got = next(ix, st, err);
	if (got >= 0)
		*out = got == 1 ? int_at(st, 0) : 0;
	sqlite3_finalize(st);
	return got < 0 ? -1 : 0;
}

int
index_put_spool_last(struct index *ix, const char *session, uint64_t last, struct err *err)
{
	return run(ix, err, "INSERT OR REPLACE INTO spools VALUES(?,?)", "ti", session, last);
}
