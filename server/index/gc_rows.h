/* What the index says of what may go, and the end of rows: for the collector (manager/collector.h).
 */
#ifndef BERTH_GC_ROWS_H
#define BERTH_GC_ROWS_H

#include "rows.h"

/* Each snapshot's manifest; each layer that a snapshot lists. */
typedef int (*gc_digest_fn)(void *ctx, const struct digest *d, struct err *err);
int gc_rows_manifests(struct index *ix, gc_digest_fn fn, void *ctx, struct err *err) must_check;
int gc_rows_layers(struct index *ix, gc_digest_fn fn, void *ctx, struct err *err) must_check;

/* Snapshots that something outside their own list stands on, with the session that they are of:
 *   GC_HEAD    the head of a session, also of a removed one
 *   GC_REDO    where a redo leads to
 *   GC_FORKED  a snapshot of another session has it as its parent */
enum gc_hold { GC_HEAD, GC_REDO, GC_FORKED };
typedef int (*gc_hold_fn)(void *ctx, enum gc_hold why, const struct digest *snapshot,
			  const char *holder, struct err *err);
int gc_rows_holds(struct index *ix, gc_hold_fn fn, void *ctx, struct err *err) must_check;

/* The snapshot goes; those whose parent it was have its own parent from then on. Its layers' rows
 * stay until gc_rows_drop_layers. All of these in the caller's transaction. */
int gc_rows_drop_snapshot(struct index *ix, const struct digest *d, struct err *err) must_check;
int gc_rows_drop_layers(struct index *ix, struct err *err) must_check;
/* The session with its uppers, calls, limits, choices. Its snapshots must be gone: 0 some are there
 * (the row stays), 1 it is gone. */
int gc_rows_drop_session(struct index *ix, const char *id, struct err *err) must_check;

/* ---- what a worker has been given to remove ---- */
int gc_rows_put_dying(struct index *ix, const struct digest *d, uint64_t now_ns,
		      struct err *err) must_check;
/* index_put_snapshot takes the layers of a new snapshot off that list. */
int gc_rows_end_dying(struct index *ix, struct err *err) must_check;
int gc_rows_count_dying(struct index *ix, uint64_t *out, struct err *err) must_check;

/* The earliest end that a snapshot has of its own; 0: none has one. */
int gc_rows_next_expiry(struct index *ix, uint64_t *out_ns, struct err *err) must_check;

#endif
