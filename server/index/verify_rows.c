#include "verify_rows.h"
#include "snapshot_rows.h"

#define CHOSEN                                                                                     \
	"SELECT digest FROM snapshots WHERE (?1='' OR session=?1) AND (?2 IS NULL OR digest=?2)"

int
verify_rows_snapshots(struct index *ix, const char *session, const struct digest *one,
		      snapshot_row_fn fn, void *ctx, struct err *err)
{
	return snapshot_rows_each(ix,
				  statement_query(ix, err,
						  SNAPSHOT_COLUMNS "WHERE digest IN (" CHOSEN
								   ") ORDER BY created_ns, rowid",
						  "td", session, one),
				  fn, ctx, err);
}

int
verify_rows_users(struct index *ix, const struct digest *layer, snapshot_row_fn fn, void *ctx,
		  struct err *err)
{
	return snapshot_rows_each(ix,
				  statement_query(ix, err,
						  SNAPSHOT_COLUMNS
						  "WHERE digest IN (SELECT "
						  "snapshot FROM snapshot_layers WHERE "
						  "layer=?) ORDER BY created_ns DESC",
						  "d", layer),
				  fn, ctx, err);
}

int
verify_rows_layers(struct index *ix, const char *session, const struct digest *one, layer_row_fn fn,
		   void *ctx, struct err *err)
{
	return snapshot_rows_each_layer(
	    ix,
	    statement_query(ix, err,
			    LAYER_COLUMNS "WHERE l.digest IN (SELECT layer FROM snapshot_layers "
					  "WHERE snapshot IN (" CHOSEN "))",
			    "td", session, one),
	    fn, ctx, err);
}
