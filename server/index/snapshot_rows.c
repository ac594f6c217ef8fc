/* Rows of snapshots and their layers, and of kept uppers. */
#include "snapshot_rows.h"

#include <stdio.h>

/* ---- layers and snapshots ---- */

int
index_put_layer(struct index *ix, const struct layer_row *r, struct err *err)
{
	return statement_run(ix, err, "INSERT OR IGNORE INTO layers VALUES(?,?,?,?,?)", "ddiii",
			     &r->digest, &r->diff_id, r->bytes, r->raw_bytes, r->entries);
}

int
index_put_snapshot(struct index *ix, const struct snapshot_row *r, const struct digest *layers,
		   size_t n_layers, struct err *err)
{
	if (statement_run(ix, err,
			  "INSERT INTO "
			  "snapshots(digest,session,parent,made_by,calls,image,created_ns,"
			  "bytes,total_bytes,name,note,labels,pinned,expires_ns) "
			  "VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,NULLIF(?10,''),?11,?12,?13,?14) "
			  "ON CONFLICT(digest) DO UPDATE SET session=?2,parent=?3,made_by=?4,calls=?5,"
			  "image=?6,created_ns=?7,bytes=?8,total_bytes=?9,name=NULLIF(?10,''),"
			  "note=?11,labels=?12,pinned=?13,expires_ns=?14",
			  "dtdtttiiitttii", &r->digest, r->session,
			  r->has_parent ? &r->parent : NULL, r->made_by, r->calls, r->image,
			  r->created_ns, r->bytes, r->total_bytes, r->facts.name, r->facts.note,
			  r->facts.labels, (uint64_t)r->facts.pinned, r->facts.expires_ns) < 0)
		return -1;
	for (size_t i = 0; i < n_layers; i++)
		if (statement_run(ix, err, "INSERT OR REPLACE INTO snapshot_layers VALUES(?,?,?)",
				  "did", &r->digest, (uint64_t)i, &layers[i]) < 0)
			return -1;
	/* Whoever made it has found those of its layers that were dying, or written them anew. */
	return statement_run(ix, err,
			     "DELETE FROM dying WHERE digest IN (SELECT layer FROM snapshot_layers "
			     "WHERE snapshot=?)",
			     "d", &r->digest);
}

int
index_drop_snapshot(struct index *ix, const struct digest *digest, struct err *err)
{
	return statement_run(ix, err, "DELETE FROM snapshots WHERE digest=?", "d", digest);
}

int
index_put_snapshot_facts(struct index *ix, const struct digest *digest,
			 const struct snapshot_facts *f, struct err *err)
{
	return statement_run(ix, err,
			     "UPDATE snapshots SET name=NULLIF(?,''),note=?,labels=?,pinned=?,"
			     "expires_ns=? WHERE digest=?",
			     "tttiid", f->name, f->note, f->labels, (uint64_t)f->pinned,
			     f->expires_ns, digest);
}

int
snapshot_rows_each(struct index *ix, sqlite3_stmt *st, snapshot_row_fn fn, void *ctx,
		   struct err *err)
{
	int got;

	if (!st)
		return -1;
	while ((got = statement_next(ix, st, err)) == 1) {
		struct snapshot_row r = {0};
		statement_digest(st, 0, &r.digest);
		statement_text(st, 1, r.session, sizeof r.session);
		r.has_parent = statement_digest(st, 2, &r.parent);
		statement_text(st, 3, r.made_by, sizeof r.made_by);
		statement_text(st, 4, r.calls, sizeof r.calls);
		statement_text(st, 5, r.image, sizeof r.image);
		r.created_ns = statement_number(st, 6);
		r.bytes = statement_number(st, 7);
		r.total_bytes = statement_number(st, 8);
		statement_text(st, 9, r.facts.name, sizeof r.facts.name);
		statement_text(st, 10, r.facts.note, sizeof r.facts.note);
		statement_text(st, 11, r.facts.labels, sizeof r.facts.labels);
		r.facts.pinned = statement_number(st, 12) != 0;
		r.facts.expires_ns = statement_number(st, 13);
		got = fn(ctx, &r, err);
		if (got != 0)
			break;
	}
	sqlite3_finalize(st);
	return got;
}

int
index_list_snapshots(struct index *ix, const char *session, snapshot_row_fn fn, void *ctx,
		     struct err *err)
{
	return snapshot_rows_each(
	    ix,
	    statement_query(ix, err, SNAPSHOT_COLUMNS "WHERE session=? ORDER BY created_ns, rowid",
			    "t", session),
	    fn, ctx, err);
}

static int
take_found(void *ctx, const struct snapshot_row *row, struct err *err)
{
	(void)err;
	*(struct snapshot_row *)ctx = *row;
	return 1;
}

int
index_find_snapshot(struct index *ix, const struct digest *digest, struct snapshot_row *out,
		    struct err *err)
{
	return snapshot_rows_each(
	    ix, statement_query(ix, err, SNAPSHOT_COLUMNS "WHERE digest=?", "d", digest),
	    take_found, out, err);
}

int
index_match_snapshots(struct index *ix, const char *session, struct str ref, snapshot_row_fn fn,
		      void *ctx, struct err *err)
{
	char text[SNAPSHOT_REF_BYTES], begins[SNAPSHOT_REF_BYTES] = "";

	if (str_copy(ref, text, sizeof text, err) < 0)
		return -1;
	const char *hex = text;
	if (str_starts(ref, "sha256:"))
		hex += 7;
	/* a beginning of a digest, in hex, else something that none begins with */
	const size_t n = strlen(hex);
	const bool is_hex = n >= 6 && n <= 64 && strspn(hex, "0123456789abcdef") == n;
	snprintf(begins, sizeof begins, "%s", is_hex ? hex : "-");
	return snapshot_rows_each(ix,
				  statement_query(ix, err,
						  SNAPSHOT_COLUMNS
						  "WHERE (?1='' OR session=?1) AND (name=?2 OR "
						  "substr(lower(hex(digest)),1,length(?3))=?3) "
						  "ORDER BY created_ns, rowid",
						  "ttt", session, text, begins),
				  fn, ctx, err);
}

int
snapshot_rows_each_layer(struct index *ix, sqlite3_stmt *st, layer_row_fn fn, void *ctx,
			 struct err *err)
{
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

int
index_list_layers(struct index *ix, const struct digest *snapshot, layer_row_fn fn, void *ctx,
		  struct err *err)
{
	return snapshot_rows_each_layer(
	    ix,
	    statement_query(ix, err,
			    LAYER_COLUMNS "JOIN snapshot_layers s ON s.layer=l.digest WHERE "
					  "s.snapshot=? ORDER BY s.position",
			    "d", snapshot),
	    fn, ctx, err);
}

/* ---- kept uppers ---- */

int
index_put_upper(struct index *ix, const struct upper_row *r, struct err *err)
{
	return statement_run(ix, err, "INSERT OR REPLACE INTO uppers VALUES(?,?,?,?,?)", "tibti",
			     r->session, (uint64_t)r->n, r->n_layers ? (const void *)r->layers : "",
			     r->n_layers * sizeof *r->layers, r->boot, (uint64_t)r->synced);
}

int
index_sync_upper(struct index *ix, const struct upper_row *r, struct err *err)
{
	return statement_run(
	    ix, err, "UPDATE uppers SET synced=1 WHERE session=? AND n=? AND layers=? AND boot=?",
	    "tibt", r->session, (uint64_t)r->n, (const void *)r->layers,
	    r->n_layers * sizeof *r->layers, r->boot);
}

int
index_drop_upper(struct index *ix, const char *session, unsigned n, struct err *err)
{
	return statement_run(ix, err, "DELETE FROM uppers WHERE session=? AND n=?", "ti", session,
			     (uint64_t)n);
}

int
index_list_uppers(struct index *ix, const char *session, upper_row_fn fn, void *ctx,
		  struct err *err)
{
	sqlite3_stmt *st = statement_query(
	    ix, err, "SELECT session,n,layers,boot,synced FROM uppers WHERE session=? ORDER BY n",
	    "t", session);
	if (!st)
		return -1;
	int got;
	while ((got = statement_next(ix, st, err)) == 1) {
		struct upper_row r = {0};
		statement_text(st, 0, r.session, sizeof r.session);
		r.n = (unsigned)statement_number(st, 1);
		const size_t bytes = (size_t)sqlite3_column_bytes(st, 2);
		if (bytes % sizeof *r.layers) {
			got = err_set(err, ERR_CORRUPT,
				      "index.db: a kept upper with %zu bytes of layers", bytes);
			break;
		}
		r.n_layers = bytes / sizeof *r.layers;
		r.layers = sqlite3_column_blob(st, 2); /* of bytes alone, so aligned */
		statement_text(st, 3, r.boot, sizeof r.boot);
		r.synced = statement_number(st, 4) != 0;
		got = fn(ctx, &r, err);
		if (got != 0)
			break;
	}
	sqlite3_finalize(st);
	return got;
}
