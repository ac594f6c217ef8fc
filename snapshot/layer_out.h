/* A layer that is being written: archive and index side by side, from entries in order. */
#ifndef BERTH_LAYER_OUT_H
#define BERTH_LAYER_OUT_H

#include "blob.h"
#include "entry.h"
#include "idx.h"
#include "layer.h"
#include "tar.h"

struct layer_out {
	struct layer_options o;
	struct blob_writer blob, index;
	struct frames_writer *frames; /* owned */
	struct idx_writer *idx;       /* owned */
	struct tar_writer tar;
	struct layer_counts counts;
	uint64_t stepped_at; /* entries at the last step */
};

#define auto_layer_out __attribute__((cleanup(layer_out_done))) struct layer_out
int layer_out_begin(struct layer_out *l, const struct layer_options *o, struct err *err) must_check;
/* fd: of a file's data, else -1. Offsets of e->extents are read from it. */
int layer_out_put(struct layer_out *l, const struct entry *e, int fd, bool *out_torn,
		  struct err *err) must_check;
/* Both are durable and have their names. */
int layer_out_commit(struct layer_out *l, struct frames_sum *out, struct err *err) must_check;
void layer_out_done(struct layer_out *l); /* what is not committed is gone */

#endif
