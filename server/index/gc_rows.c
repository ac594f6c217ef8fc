#include "gc_rows.h"
#include "statement.h"

static int
each_digest(struct index *ix, const char *sql, gc_digest_fn fn, void *ctx, struct err *err)
{
	sqlite3_stmt *st = statement_query(ix, err, sql, "");
	int got;

	if (!st)
		return -1;
	while ((got = statement_next(ix, st, err)) == 1) {
		struct digest d;
		if (!statement_digest(st, 0, &d))
			continue;
		got = fn(ctx, &d, err);
		if (got != 0)
			break;
	}
	sqlite3_finalize(st);
	return got;
}

int
gc_rows_manifests(struct index *ix, gc_digest_fn fn, void *ctx, struct err *err)
{
	return each_digest(ix, "SELECT digest FROM snapshots", fn, ctx, err);
}

int
gc_rows_layers(struct index *ix, gc_digest_fn fn, void *ctx, struct err *err)
{
	return each_digest(ix, "SELECT DISTINCT layer FROM snapshot_layers", fn, ctx, err);
}

int
gc_rows_holds(struct index *ix, gc_hold_fn fn, void *ctx, struct err *err)
{
	sqlite3_stmt *st = statement_query(
	    ix, err,
	    "SELECT 0, head, id FROM sessions WHERE head IS NOT NULL "
	    "UNION ALL SELECT 1, snapshot, session FROM redo "
	    "UNION ALL SELECT 2, c.parent, c.session FROM snapshots c JOIN snapshots p "
	    "ON p.digest=c.parent WHERE c.session<>p.session",
	    "");
	int got;

	if (!st)
		return -1;
	while ((got = statement_next(ix, st, err)) == 1) {
		struct digest d;
		char holder[ID_BYTES];
		if (!statement_digest(st, 1, &d))
			continue;
		statement_text(st, 2, holder, sizeof holder);
		got = fn(ctx, (enum gc_hold)statement_number(st, 0), &d, holder, err);
		if (got != 0)
			break;
	}
	sqlite3_finalize(st);
	return got;
}

int
gc_rows_drop_snapshot(struct index *ix, const struct digest *d, struct err *err)
{
	if (statement_run(ix, err,
			  "UPDATE snapshots SET parent=(SELECT parent FROM snapshots WHERE "
			  "digest=?1) WHERE parent=?1",
			  "d", d) < 0)
		return -1;
	return index_drop_snapshot(ix, d, err);
}

int
gc_rows_drop_layers(struct index *ix, struct err *err)
{
	return statement_run(ix, err,
			     "DELETE FROM layers WHERE digest NOT IN (SELECT layer FROM "
			     "snapshot_layers)",
			     "");
}

static int
count(struct index *ix, const char *sql, const char *types, const char *text, uint64_t *out,
      struct err *err)
{
	sqlite3_stmt *st = statement_query(ix, err, sql, types, text);

	if (!st)
		return -1;
	const int got = statement_next(ix, st, err);
	if (got >= 0)
		*out = got == 1 ? statement_number(st, 0) : 0;
	sqlite3_finalize(st);
	return got < 0 ? -1 : 0;
}

int
gc_rows_drop_session(struct index *ix, const char *id, struct err *err)
{
	uint64_t left;

	if (count(ix, "SELECT count(*) FROM snapshots WHERE session=?", "t", id, &left, err) < 0 ||
	    statement_run(ix, err, "DELETE FROM uppers WHERE session=?", "t", id) < 0 ||
	    statement_run(ix, err, "DELETE FROM calls WHERE session=?", "t", id) < 0 ||
	    statement_run(ix, err, "DELETE FROM spools WHERE session=?", "t", id) < 0)
		return -1;
	if (left)
		return 0;
	return index_drop_session(ix, id, err) < 0 ? -1 : 1;
}

int
gc_rows_put_dying(struct index *ix, const struct digest *d, uint64_t now_ns, struct err *err)
{
	return statement_run(ix, err, "INSERT OR IGNORE INTO dying VALUES(?,?)", "di", d, now_ns);
}

int
gc_rows_end_dying(struct index *ix, struct err *err)
{
	return statement_run(ix, err, "DELETE FROM dying", "");
}

int
gc_rows_count_dying(struct index *ix, uint64_t *out, struct err *err)
{
	return count(ix, "SELECT count(*) FROM dying", "", NULL, out, err);
}

int
gc_rows_next_expiry(struct index *ix, uint64_t *out_ns, struct err *err)
{
	return count(ix, "SELECT min(expires_ns) FROM snapshots WHERE expires_ns>0", "", NULL,
		     out_ns, err);
}
