/* Entries of one archive, or of several in turn, into one directory, in the form of overlayfs.
 *
 * Invariants (archives may be hostile):
 *  1. everything is made through fds of directories inside the target, none of them reached over a
 *     symbolic link, by names that whiteout_decode has judged;
 *  2. nothing that is there is opened for writing: files are made with O_EXCL;
 *  3. the only device nodes made are whiteouts, the only overlay marks those of deletions;
 *  4. what several layers make together, stacked on an image, shows what they show stacked one by
 *     one: a directory that replaces something else is opaque, deletions stay unless nothing below
 *     the target could show through. */
#ifndef BERTH_APPLY_H
#define BERTH_APPLY_H

#include "layer.h"
#include "tar.h"

struct apply;

/* root: lent, an empty directory. merge: entries may replace those of earlier archives. o: its watch
 * and its owner. */
struct apply *apply_new(int root, bool merge, const struct layer_options *o,
			struct err *err) must_check;
/* Nothing stands below the target: it gets no overlay marks at all. */
void apply_alone(struct apply *a);
void apply_free(struct apply *a);
AUTO_OF(apply)
/* All entries of one archive. out is added to.
 *   apply_tar   tar: lent. Of a foreign one, a deletion may stand behind what it spares */
int apply_archive(struct apply *a, struct frames_reader *frames, struct layer_counts *out,
		  struct err *err) must_check;
int apply_tar(struct apply *a, struct tar_reader *tar, bool foreign, struct layer_counts *out,
	      struct err *err) must_check;

#endif
