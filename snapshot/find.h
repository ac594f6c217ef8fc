/* Which of many snapshots have files of a name, and in which they appeared, changed and vanished.
 * Each layer is looked at twice, however many snapshots stand on it: its index is scanned for
 * names, then asked what it hides of those found. Of archives nothing is read. */
#ifndef BERTH_FIND_H
#define BERTH_FIND_H

#include "layer.h"
#include "view.h"

enum { FIND_PATHS_MAX = 100 * 1000, FIND_ROWS_MAX = 1000 * 1000 };

struct find_snapshot {
	const struct digest *layers; /* lent; the lowest first */
	size_t n_layers;
	size_t parent; /* which of them it follows; its own number: none of them */
};

enum find_what { FIND_APPEARED, FIND_CHANGED, FIND_VANISHED };

struct find_change { /* against the snapshot's parent */
	size_t snapshot;
	enum find_what what;
	enum entry_type type; /* of what is there, or (vanished) was */
	uint64_t size;
};

struct find_path { /* lent for the call */
	struct str path;
	const struct find_change *changes; /* in the order of the snapshots */
	size_t n_changes;
	const bool *held; /* by each snapshot */
};

typedef int (*find_fn)(void *ctx, const struct find_path *p, struct err *err);

/* pattern: a glob (str_glob) on the path; without a slash in it: on the name, wherever it is. fn:
 * for each path in order. USAGE: more than FIND_PATHS_MAX match. */
int find_paths(const struct layer_options *o, struct str pattern,
	       const struct find_snapshot *snapshots, size_t n, find_fn fn, void *ctx,
	       struct err *err) must_check;

#endif
