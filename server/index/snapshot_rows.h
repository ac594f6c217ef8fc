/* Rows of snapshots and of layers, read from any statement with these columns. For the files of the index. */
#ifndef BERTH_SNAPSHOT_ROWS_H
#define BERTH_SNAPSHOT_ROWS_H

#include "statement.h"

#define SNAPSHOT_COLUMNS                                                                           \
	"SELECT digest,session,parent,made_by,calls,image,created_ns,bytes,total_bytes,name,note," \
	"labels,pinned,expires_ns FROM snapshots "
#define LAYER_COLUMNS "SELECT l.digest,l.diff_id,l.bytes,l.raw_bytes,l.entries FROM layers l "

/* Both take the statement, which may be NULL: it has failed with err then. As statement rows go: fn for
 * each until it returns other than 0. */
int snapshot_rows_each(struct index *ix, sqlite3_stmt *st, snapshot_row_fn fn, void *ctx,
		       struct err *err) must_check;
int snapshot_rows_each_layer(struct index *ix, sqlite3_stmt *st, layer_row_fn fn, void *ctx,
			     struct err *err) must_check;

#endif
