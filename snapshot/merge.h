/* Several indexes as one list of keys in order: at each key, all layers that have a row of it, the
 * uppermost first. What that means (deleted, replaced) is the caller's: view.c, diff.c. */
#ifndef BERTH_MERGE_H
#define BERTH_MERGE_H

#include "idx_rows.h"

struct merge_item {
	size_t source;      /* as added; the lowest layer first */
	struct idx_row row; /* lent until the next merge_next */
};

struct merge_group {
	struct str key, path;
	bool opaque; /* marks of the directory `path`: each source's, and nothing else */
	const struct merge_item *items;
	size_t n;
};

struct merge;

/* Of the keys that are below the directory `dir`, or (shallow) in it. */
struct merge *merge_new(struct str dir, bool shallow, struct err *err) must_check;
void merge_free(struct merge *m);
AUTO_OF(merge)
/* rows: lent until merge_free. Before the first merge_next. */
int merge_add(struct merge *m, struct idx_rows *rows, size_t source, struct err *err) must_check;
/* 1, lent until the next call; 0 the end, -1. */
int merge_next(struct merge *m, struct merge_group *out, struct err *err) must_check;

/* ---- what lies above a key: for all who read keys in order ---- */

/* Of directories (or what stands in their place) that keys to come may be below: all of them are
 * beginnings of the present key, so their lengths are all there is to keep. */
struct merge_above {
	struct merge_mark {
		size_t len, level;
	} * at; /* owned */
	size_t n, cap;
	struct buf key; /* the present one */
};

void merge_above_init(struct merge_above *a);
void merge_above_done(struct merge_above *a);
/* Goes on to a key, which must not be before the present one. *out: the level of the nearest mark
 * that it is below, else `otherwise`. Forgets the marks that no key from here on is below. */
int merge_above_move(struct merge_above *a, struct str key, size_t otherwise, size_t *out,
		     struct err *err) must_check;
/* Marks the present path, of the present key. Of two levels of one path the greater stays. */
int merge_above_put(struct merge_above *a, struct str path, size_t level,
		    struct err *err) must_check;

#endif
