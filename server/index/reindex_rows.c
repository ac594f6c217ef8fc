#include "reindex_rows.h"
#include "statement.h"

static int
any(struct index *ix, sqlite3_stmt *take_st, struct err *err)
{
	if (!take_st)
		return -1;
	const int got = statement_next(ix, take_st, err);
	sqlite3_finalize(take_st);
	return got;
}

int
reindex_rows_name_taken(struct index *ix, const char *name, struct err *err)
{
	return any(ix,
		   statement_query(ix, err,
				   "SELECT 1 FROM sessions WHERE name=? AND state<>'deleted'", "t",
				   name),
		   err);
}

bool
reindex_rows_has_session(struct index *ix, const char *id)
{
	struct err ignored;
	return any(ix, statement_query(ix, &ignored, "SELECT 1 FROM sessions WHERE id=?", "t", id),
		   &ignored) == 1;
}

bool
reindex_rows_has_name(struct index *ix, const char *session, const char *name)
{
	struct err ignored;
	return any(ix,
		   statement_query(ix, &ignored,
				   "SELECT 1 FROM snapshots WHERE session=? AND name=?", "tt",
				   session, name),
		   &ignored) == 1;
}

int
reindex_rows_put_labels(struct index *ix, const char *session, struct str labels, struct err *err)
{
	char text[1025];

	if (str_copy(labels, text, sizeof text, err) < 0)
		return -1;
	return statement_run(ix, err, "UPDATE sessions SET labels=? WHERE id=?", "tt", text,
			     session);
}

int
reindex_rows_put_image(struct index *ix, const struct image_row *r, struct err *err)
{
	return statement_run(ix, err, "INSERT OR IGNORE INTO images VALUES(?,?,?,?,?,?,?,?,?,?,?)",
			     "tbbtttiiiii", r->content, (const void *)r->layers,
			     r->n_layers * sizeof *r->layers, (const void *)r->env, r->env_bytes,
			     r->cwd, r->user, r->home, (uint64_t)r->uid, (uint64_t)r->gid, r->bytes,
			     r->entries, r->dropped);
}

int
reindex_rows_put_name(struct index *ix, const char *name, const char *content, uint64_t created_ns,
		      struct err *err)
{
	return statement_run(ix, err,
			     "INSERT OR REPLACE INTO image_names SELECT ?1,content,?3 FROM images "
			     "WHERE content=?2",
			     "tti", name, content, created_ns);
}

/* All layers of x stand at the same places in y. */
#define IS_BEGINNING(x, y)                                                                         \
	"NOT EXISTS(SELECT 1 FROM snapshot_layers i WHERE i.snapshot=" x ".digest AND NOT "        \
	"EXISTS(SELECT 1 FROM snapshot_layers k WHERE k.snapshot=" y                               \
	".digest AND k.position=i.position AND k.layer=i.layer))"
#define LAYERS(x) "(SELECT count(*) FROM snapshot_layers WHERE snapshot=" x ".digest)"

int
reindex_rows_settle(struct index *ix, struct err *err)
{
	if (statement_run(
		ix, err,
		"DELETE FROM snapshots WHERE digest IN (SELECT a.digest FROM snapshots a JOIN "
		"snapshots b ON a.session=b.session AND a.parent IS b.parent AND "
		"a.made_by=b.made_by AND a.digest<>b.digest AND b.created_ns>=a.created_ns WHERE "
		"a.name IS NULL AND " LAYERS("b") "=" LAYERS("a") "+1 AND " IS_BEGINNING(
		    "a", "b") " AND NOT EXISTS(SELECT 1 FROM snapshots c WHERE "
			      "c.parent=a.digest) AND NOT EXISTS(SELECT 1 FROM sessions s WHERE "
			      "s.head=a.digest))",
		"") < 0)
		return -1;
	return statement_run(
	    ix, err,
	    "UPDATE snapshots AS c SET parent=(SELECT d FROM (SELECT p.digest AS d, p.created_ns "
	    "AS "
	    "made, CASE WHEN " IS_BEGINNING("p", "c") " THEN " LAYERS(
		"p") " ELSE 0 END AS shared FROM snapshots p WHERE p.session=c.session AND "
		     "p.created_ns<c.created_ns) ORDER BY shared DESC, made DESC LIMIT 1) WHERE "
		     "c.parent IS NOT NULL AND NOT EXISTS(SELECT 1 FROM snapshots q WHERE "
		     "q.digest=c.parent)",
	    "");
}

int
reindex_rows_heads(struct index *ix, int (*fn)(void *ctx, const char *id, struct err *err),
		   void *ctx, struct err *err)
{
	static const char lost[] = "SELECT id FROM sessions WHERE head IS NOT NULL AND head NOT IN "
				   "(SELECT digest FROM snapshots)";
	sqlite3_stmt *st = statement_query(ix, err, lost, "");
	int got;

	if (!st)
		return -1;
	while ((got = statement_next(ix, st, err)) == 1) {
		char id[ID_BYTES];
		statement_text(st, 0, id, sizeof id);
		got = fn(ctx, id, err);
		if (got != 0)
			break;
	}
	sqlite3_finalize(st);
	if (got < 0)
		return -1;
	return statement_run(
	    ix, err,
	    "UPDATE sessions AS s SET reason='its head was lost: this is its newest snapshot', "
	    "head=(SELECT digest FROM snapshots WHERE session=s.id ORDER BY created_ns DESC LIMIT "
	    "1) "
	    "WHERE head IS NOT NULL AND head NOT IN (SELECT digest FROM snapshots)",
	    "");
}
