/* Statements for an index that is made anew from the store (manager/reindex.h). */
#ifndef BERTH_REINDEX_ROWS_H
#define BERTH_REINDEX_ROWS_H

#include "image_rows.h"

/* 1, 0, -1. */
int reindex_rows_name_taken(struct index *ix, const char *name, struct err *err) must_check;
bool reindex_rows_has_session(struct index *ix, const char *id);
bool reindex_rows_has_name(struct index *ix, const char *session, const char *name);
int reindex_rows_put_labels(struct index *ix, const char *session, struct str labels,
			    struct err *err) must_check;
int reindex_rows_put_image(struct index *ix, const struct image_row *row,
			   struct err *err) must_check;
int reindex_rows_put_name(struct index *ix, const char *name, const char *content,
			  uint64_t created_ns, struct err *err) must_check;
/* When all snapshots are there:
 *   a first part of a pause that a second has replaced goes: the same parent, the same maker, all
 * of its layers and one more, nothing stands on it; a parent that is gone gives way to the nearest
 * ancestor that is there: the snapshot of the session that is older and has the longest beginning
 * of its layers. */
int reindex_rows_settle(struct index *ix, struct err *err) must_check;
/* Heads without a snapshot become the newest one, or none; fn is told each. */
int reindex_rows_heads(struct index *ix, int (*fn)(void *ctx, const char *id, struct err *err),
		       void *ctx, struct err *err) must_check;

#endif
