/* A snapshot's files without unpacking it: its layers, the lowest first, as one tree, read from
 * their indexes. Deletions are done; what stands below all layers (the image) is not in it. A live
 * workspace may be the topmost layer: its upper is walked once.
 *
 * Reads the store only, and not much of it: an index is opened when it is needed first. One that is
 * missing is made again from its archive, in memory. */
#ifndef BERTH_VIEW_H
#define BERTH_VIEW_H

#include "idx_rows.h"
#include "layer.h"
#include "merge.h"

struct view;

/* o: its store, its watch and its threads. */
struct view *view_new(const struct layer_options *o, const struct digest *layers, size_t n,
		      struct err *err) must_check;
void view_free(struct view *v);
AUTO_OF(view)
/* A live upper on top of them. Walks it; `upper` is lent until view_free. */
int view_add_live(struct view *v, int upper, struct err *err) must_check;

struct view_entry {
	struct idx_row row; /* type: never a whiteout, an opaque mark */
	size_t layer;       /* whose row it is */
};

/* What the view has at a path: 1, lent until the next view_find; 0 nothing, -1. The root is always
 * there. */
int view_find(struct view *v, struct str path, struct view_entry *out, struct err *err) must_check;
/* What a further name stands for, which has its size and data (a file, seldom a symbolic link or a
 * fifo): the entry of its first name. Of another entry: that one. */
int view_resolve(struct view *v, const struct view_entry *e, struct view_entry *out,
		 struct err *err) must_check;

struct view_walk;

/* All that is in the directory `dir`; deep: and below it. In the order of keys (idx_rows.h). */
struct view_walk *view_walk_new(struct view *v, struct str dir, bool deep,
				struct err *err) must_check;
void view_walk_free(struct view_walk *w);
AUTO_OF(view_walk)
/* 1, lent until the next call of it; 0 the end, -1. */
int view_walk_next(struct view_walk *w, struct view_entry *out, struct err *err) must_check;

/* ---- for diff.c, content.c and find.c ---- */

size_t view_layers(const struct view *v);
/* NULL: the live one. */
const struct digest *view_digest(const struct view *v, size_t layer);
struct idx_rows *view_rows(struct view *v, size_t layer, struct err *err);
/* Whether a layer hides what lower ones have in `dir`: 1, 0, -1. key: room for work. */
int view_hides(struct view *v, size_t layer, struct str dir, struct buf *key,
	       struct err *err) must_check;
/* An archive's bytes; shared room. NULL: failed. */
struct frames_at;
struct frames_at *view_frames(struct view *v, size_t layer, struct err *err);
int view_upper(const struct view *v);           /* of the live layer */
uint64_t view_read_bytes(const struct view *v); /* of archives, so far */
/* The watch of a long act: every so many calls. */
int view_step(struct view *v, struct err *err) must_check;

#endif
