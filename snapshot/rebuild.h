/* Indexes that are not in the store: of an archive whose own is gone, and of a live upper. Files
 * without a name, in memory: nothing is written to a disk. */
#ifndef BERTH_REBUILD_H
#define BERTH_REBUILD_H

#include "layer.h"

/* An fd of the index of this archive, as capture wrote it. CORRUPT: the archive is not `digest`. */
int rebuild_archive(const struct layer_options *o, int blob, const struct digest *digest,
		    struct err *err) must_check;
/* Writes it into `into`, which is empty, and says what was read: for who knows no digest yet. */
int rebuild_into(const struct layer_options *o, int blob, int into, struct frames_sum *out,
		 struct layer_counts *out_counts, struct err *err) must_check;
/* An fd of an index of what is in an upper now: each name of a file is a file there. */
int rebuild_upper(const struct layer_options *o, int upper, struct err *err) must_check;

#endif
