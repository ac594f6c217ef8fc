#include "verify_rows.h"
#include "statement.h"

#define CHOSEN                                                                                     \
	"SELECT digest FROM snapshots WHERE (?1='' OR session=?1) AND (?2 IS NULL OR digest=?2)"

static int
each_snapshot(struct index *ix, sqlite3_stmt *take_st, snapshot_row_fn fn, void *ctx,
	      struct err *err)
{
	int got;

	if (!take_st)
		return -1;
	while ((got = statement_next(ix, take_st, err)) == 1) {
		struct snapshot_row r = {0};
		statement_digest(take_st, 0, &r.digest);
		statement_text(take_st, 1, r.session, sizeof r.session);
		statement_text(take_st, 2, r.calls, sizeof r.calls);
		r.created_ns = statement_number(take_st, 3);
		statement_text(take_st, 4, r.facts.name, sizeof r.facts.name);
		statement_text(take_st, 5, r.facts.note, sizeof r.facts.note);
		statement_text(take_st, 6, r.facts.labels, sizeof r.facts.labels);
		r.facts.pinned = statement_number(take_st, 7) != 0;
		r.facts.expires_ns = statement_number(take_st, 8);
		got = fn(ctx, &r, err);
		if (got != 0)
			break;
	}
	sqlite3_finalize(take_st);
	return got;
}

#define COLUMNS "SELECT digest,session,calls,created_ns,name,note,labels,pinned,expires_ns "

int
verify_rows_snapshots(struct index *ix, const char *session, const struct digest *one,
		      snapshot_row_fn fn, void *ctx, struct err *err)
{
	return each_snapshot(ix,
			     statement_query(ix, err,
					     COLUMNS "FROM snapshots WHERE digest IN (" CHOSEN
						     ") ORDER BY created_ns, rowid",
					     "td", session, one),
			     fn, ctx, err);
}

int
verify_rows_users(struct index *ix, const struct digest *layer, snapshot_row_fn fn, void *ctx,
		  struct err *err)
{
	return each_snapshot(ix,
			     statement_query(ix, err,
					     COLUMNS "FROM snapshots WHERE digest IN (SELECT "
						     "snapshot FROM snapshot_layers WHERE "
						     "layer=?) ORDER BY created_ns DESC",
					     "d", layer),
			     fn, ctx, err);
}

int
verify_rows_layers(struct index *ix, const char *session, const struct digest *one, layer_row_fn fn,
		   void *ctx, struct err *err)
{
	sqlite3_stmt *st = statement_query(
	    ix, err,
	    "SELECT digest,diff_id,bytes,raw_bytes,entries FROM layers WHERE digest IN (SELECT "
	    "layer FROM snapshot_layers WHERE snapshot IN (" CHOSEN "))",
	    "td", session, one);
	int got;

	if (!st)
		return -1;
	while ((got = statement_next(ix, st, err)) == 1) {
		struct layer_row r = {0};
		statement_digest(st, 0, &r.digest);
		statement_digest(st, 1, &r.diff_id);
		r.bytes = statement_number(st, 2);
		r.raw_bytes = statement_number(st, 3);
		r.entries = statement_number(st, 4);
		got = fn(ctx, &r, err);
		if (got != 0)
			break;
	}
	sqlite3_finalize(st);
	return got;
}
