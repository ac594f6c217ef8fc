/* What differs between two views: each path once. Layers that both begin with are not read, but
 * where a change of the others uncovers what is in them: so two snapshots in a row cost what lies
 * between. */
#ifndef BERTH_DIFF_H
#define BERTH_DIFF_H

#include "view.h"

enum diff_what { DIFF_ADDED, DIFF_DELETED, DIFF_TYPE, DIFF_CONTENT, DIFF_ATTRIBUTES };

struct diff_side { /* what a path is there; a further name of a file counts as a file */
	bool there;
	enum entry_type type;
	uint32_t mode, uid, gid;
	uint64_t size;
	int64_t mtime_ns;
};

struct diff_change {
	enum diff_what what; /* DIFF_CONTENT and DIFF_TYPE: attributes may differ as well */
	struct str path;     /* lent; empty: the root */
	struct diff_side a, b;
};

typedef int (*diff_fn)(void *ctx, const struct diff_change *c, struct err *err);

/* Files of one size are read where they are not of one layer. Extended attributes and times alone
 * are no difference. */
int diff_views(struct view *a, struct view *b, diff_fn fn, void *ctx, struct err *err) must_check;

#endif
