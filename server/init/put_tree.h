/* Makes one path of the workspace what it is in another tree: that of a snapshot. */
#ifndef BERTH_PUT_TREE_H
#define BERTH_PUT_TREE_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

enum { PUT_PATH_BYTES = 4096, PUT_DEPTH_MAX = 200 };

struct put_counts {
	uint64_t written; /* entries that were made or changed */
	uint64_t bytes;   /* of files that were written */
	uint64_t removed, same;
	uint64_t
	    skipped; /* mounts, which no snapshot holds, and what is no file, directory, link or fifo */
};

struct put_link;

struct put {
	int source, root;                                    /* lent: both trees' top directories */
	void (*tick)(void *ctx, const struct put_counts *n); /* now and then */
	void *ctx;
	struct put_counts n;
	/* its own */
	struct put_link *links; /* owned */
	size_t n_links, links_room;
	char at[PUT_PATH_BYTES]; /* where it is, from the top */
	size_t at_bytes;
	char *room; /* owned */
	unsigned temps;
};

/*   path   from the top, without a slash before it, "." or ".."
 *   fails  ABSENT: the source has no such path; UNAVAILABLE: a link, file or mount is on the way.
 *          What was done until then stays */
int put_tree(struct put *p, const char *path, struct err *err) must_check;
void put_done(struct put *p);

#endif
