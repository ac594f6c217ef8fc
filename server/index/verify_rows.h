/* What a verification reads of the index (manager/verifier.h). */
#ifndef BERTH_VERIFY_ROWS_H
#define BERTH_VERIFY_ROWS_H

#include "rows.h"

/* Snapshots of a session (empty: of all), or the one with this digest (NULL: any). */
int verify_rows_snapshots(struct index *ix, const char *session, const struct digest *one,
			  snapshot_row_fn fn, void *ctx, struct err *err) must_check;
/* Their layers, each once. */
int verify_rows_layers(struct index *ix, const char *session, const struct digest *one,
		       layer_row_fn fn, void *ctx, struct err *err) must_check;
/* The snapshots that list a layer, the newest first. */
int verify_rows_users(struct index *ix, const struct digest *layer, snapshot_row_fn fn, void *ctx,
		      struct err *err) must_check;

#endif
