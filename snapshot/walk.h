/* One pass over an upper, in a fixed order: a directory, then its entries sorted by the bytes of
 * their names, each with all below it before the next.
 *
 * Skips what is no file of a workspace: sockets, device nodes other than whiteouts, other mounts,
 * and the contents of /proc /sys /dev /run /mnt/memory. A name that vanishes while the walk is near
 * is skipped too: nothing is frozen on every rung. */
#ifndef BERTH_WALK_H
#define BERTH_WALK_H

#include "base/buf.h"
#include "base/err.h"

#include <stdint.h>
#include <sys/stat.h>

struct walk_entry {
	struct str path;  /* lent for the call; empty: the root */
	const char *name; /* its last part; "." for the root */
	int dir;          /* lent: where that name is */
	struct stat st;
};

struct walk_calls {
	int (*entry)(void *ctx, const struct walk_entry *e, struct err *err);
	/* After all entries of a directory. */
	int (*leave)(void *ctx, struct str dir, struct err *err);
};

int walk_tree(int root, const struct walk_calls *calls, void *ctx, uint64_t *out_skipped,
	      struct err *err) must_check;
/* The order of the walk: -1, 0, 1. As bytes, where a slash is less than any other. */
int walk_order(struct str a, struct str b);
/* Whether `path` stands below `dir`. */
bool walk_is_below(struct str path, struct str dir);

#endif
