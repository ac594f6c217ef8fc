/* Every statement on the index. One struct a table; text is of fixed size, so rows own nothing.
 *
 * What must change together is put between index_begin and index_commit; index_commit returns when
 * it is durable. A failure in between: index_rollback. */
#ifndef BERTH_ROWS_H
#define BERTH_ROWS_H

#include "base/buf.h"
#include "base/digest.h"
#include "base/err.h"
#include "base/num.h"

#include <stdbool.h>
#include <stdint.h>

struct sqlite3;

struct index {
	struct sqlite3 *db; /* owned */
	bool soon;	    /* the transaction under way need not be durable */
};

struct session_row {
	char id[ID_BYTES], name[64], state[16], reason[256], image[80], owner[128];
	char network[40]; /* none, host, join:NAME */
	char labels[1025]; /* as those of a snapshot */
	bool has_head;
	struct digest head;
	unsigned slot, upper;
	bool unclean;
	uint64_t fence; /* raised by every change of ownership; every write of state carries it */
	uint64_t created_ns, used_ns, deleted_ns; /* CLOCK_REALTIME */
};

struct layer_row {
	struct digest digest, diff_id;
	uint64_t bytes, raw_bytes, entries;
};

/* What may change of a snapshot; its ref (snapshot/oci.h) holds the same, and is written first. */
struct snapshot_facts {
	char name[64];	   /* unique in its session; empty: none */
	char note[1025];
	char labels[1025]; /* "KEY=VALUE" each, by key, newlines between */
	bool pinned;	   /* no retention drops it */
	uint64_t expires_ns; /* CLOCK_REALTIME; 0: when retention says */
};

struct snapshot_row {
	struct digest digest;
	bool has_parent;
	struct digest parent;
	char session[ID_BYTES], made_by[256], image[80];
	char calls[513]; /* ids of the calls that made it, blanks between */
	uint64_t created_ns, bytes, total_bytes; /* bytes: what it added; total: all its layers */
	struct snapshot_facts facts;
};

enum { SNAPSHOT_REF_BYTES = 80 };

struct upper_row {
	char session[ID_BYTES], boot[40];
	unsigned n;
	bool synced;
	size_t n_layers;
	const struct digest *layers; /* lent: to the function, or for the call of a list's fn */
};

/* A limit of one session: keys and units are the manager's. */
struct limit_value_row {
	char key[16];
	uint64_t value, ceiling;
	bool has_ceiling;
};

struct call_row {
	char id[ID_BYTES], session[ID_BYTES], principal[128], ended_by[16];
	char out_sha256[65], err_sha256[65];
	char limit_hit[16]; /* key of the limit it ran into; empty: none */
	char kind[8];       /* exec, or the subsystem; empty is exec */
	char command[4097], left_running[1025];
	uint64_t started_ns, ended_ns, out_bytes, err_bytes, wall_ns, cpu_ns, peak_bytes;
	unsigned exit_status, signal;
	bool cpu_told; /* cpu_ns is the word of its session's init, not the kernel's count */
};

int index_open(struct index *ix, int state_dir, struct err *err) must_check;
void index_close(struct index *ix);
int index_begin(struct index *ix, struct err *err) must_check;
int index_commit(struct index *ix, struct err *err) must_check;
void index_rollback(struct index *ix);
/* A transaction that is whole, and durable with the next one that is: a power cut before that takes it
 * away, the death of this process does not. */
int index_begin_soon(struct index *ix, struct err *err) must_check;

/* Whose word cpu_ns is: "cgroup", "init", or nobody's. */
const char *index_cpu_by(const struct call_row *r);

/* Lists call fn for each row in order until it returns other than 0. */
typedef int (*session_row_fn)(void *ctx, const struct session_row *row, struct err *err);
typedef int (*snapshot_row_fn)(void *ctx, const struct snapshot_row *row, struct err *err);
typedef int (*layer_row_fn)(void *ctx, const struct layer_row *row, struct err *err);
typedef int (*upper_row_fn)(void *ctx, const struct upper_row *row, struct err *err);
typedef int (*call_row_fn)(void *ctx, const struct call_row *row, struct err *err);

/* Writes the row with this id: new, or over the old one. AGAIN when that has a higher fence:
 * somebody else owns the session now. */
int index_put_session(struct index *ix, const struct session_row *row, struct err *err) must_check;
/* The same without waiting for the disk: it outlives a SIGKILL at once, a power cut from the next
 * durable commit on (what is durable of a WAL is a beginning of it). Not within a transaction. */
int index_put_session_soon(struct index *ix, const struct session_row *row,
			   struct err *err) must_check;
/* The same, and only when the row still has this head (NULL: none). AGAIN otherwise. */
int index_move_session(struct index *ix, const struct session_row *row,
		       const struct digest *expected, struct err *err) must_check;
int index_drop_session(struct index *ix, const char *id, struct err *err) must_check;
/* With its kept uppers and its calls: nothing tells of it any more. It has no snapshots. */
int index_erase_session(struct index *ix, const char *id, struct err *err) must_check;
int index_list_sessions(struct index *ix, session_row_fn fn, void *ctx, struct err *err) must_check;

/* ---- snapshot_rows.c ---- */

int index_put_layer(struct index *ix, const struct layer_row *row, struct err *err) must_check;
int index_put_snapshot(struct index *ix, const struct snapshot_row *row,
		       const struct digest *layers, size_t n_layers, struct err *err) must_check;
int index_drop_snapshot(struct index *ix, const struct digest *digest, struct err *err) must_check;
/* The oldest first. */
int index_list_snapshots(struct index *ix, const char *session, snapshot_row_fn fn, void *ctx,
			 struct err *err) must_check;
/* Those that a word names: a digest, at least 6 digits of its beginning, or a name. session: its id,
 * empty: of all. */
int index_match_snapshots(struct index *ix, const char *session, struct str ref, snapshot_row_fn fn,
			  void *ctx, struct err *err) must_check;
/* 1 found, 0 absent. */
int index_find_snapshot(struct index *ix, const struct digest *digest, struct snapshot_row *out,
			struct err *err) must_check;
int index_put_snapshot_facts(struct index *ix, const struct digest *digest,
			     const struct snapshot_facts *f, struct err *err) must_check;
/* The layers of a snapshot, the lowest first. */
int index_list_layers(struct index *ix, const struct digest *snapshot, layer_row_fn fn, void *ctx,
		      struct err *err) must_check;

/* ---- redo_rows.c ---- */

struct parent_row {
	char session[ID_BYTES]; /* whose snapshot it is */
	bool has_parent;
	struct digest parent;
};

/* 1 found, 0 there is no such snapshot. */
int index_find_parent(struct index *ix, const struct digest *snapshot, struct parent_row *out,
		      struct err *err) must_check;
/* What the next redo of this session comes to: a stack. */
int index_push_redo(struct index *ix, const char *session, const struct digest *snapshot,
		    struct err *err) must_check;
int index_pop_redo(struct index *ix, const char *session, unsigned n, struct err *err) must_check;
int index_clear_redo(struct index *ix, const char *session, struct err *err) must_check;
/* The n-th from its top, 1 the next one. Returns how many there are: *out is set when n is not more. */
int index_find_redo(struct index *ix, const char *session, unsigned n, struct digest *out,
		    struct err *err) must_check;

int index_put_upper(struct index *ix, const struct upper_row *row, struct err *err) must_check;
/* Of a row that still says the same as this one. */
int index_sync_upper(struct index *ix, const struct upper_row *row, struct err *err) must_check;
int index_drop_upper(struct index *ix, const char *session, unsigned n, struct err *err) must_check;
int index_list_uppers(struct index *ix, const char *session, upper_row_fn fn, void *ctx,
		      struct err *err) must_check;

/* ---- call_rows.c ---- */

int index_put_call_start(struct index *ix, const struct call_row *row, struct err *err) must_check;
int index_put_call_end(struct index *ix, const struct call_row *row, struct err *err) must_check;
/* Ends all open calls of a session as `lost`. */
int index_lose_calls(struct index *ix, const char *session, uint64_t now_ns,
		     struct err *err) must_check;
/* The newest first, at most `most`. */
int index_list_calls(struct index *ix, const char *session, unsigned most, call_row_fn fn,
		     void *ctx, struct err *err) must_check;
/* Those without an end, the oldest first. */
int index_list_open_calls(struct index *ix, const char *session, call_row_fn fn, void *ctx,
			  struct err *err) must_check;
/* 1 found, 0 absent. */
int index_find_call(struct index *ix, const char *id, struct call_row *out,
		    struct err *err) must_check;

/* ---- rows.c ---- */

typedef int (*limit_row_fn)(void *ctx, const struct limit_value_row *row, struct err *err);
int index_put_limit(struct index *ix, const char *session, const struct limit_value_row *row,
		    struct err *err) must_check;
int index_drop_limit(struct index *ix, const char *session, const char *key,
		     struct err *err) must_check;
int index_list_limits(struct index *ix, const char *session, limit_row_fn fn, void *ctx,
		      struct err *err) must_check;

int index_spool_last(struct index *ix, const char *session, uint64_t *out,
		     struct err *err) must_check;
int index_put_spool_last(struct index *ix, const char *session, uint64_t last,
			 struct err *err) must_check;

#endif
