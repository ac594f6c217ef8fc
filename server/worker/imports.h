/* A worker's job that is an image: its message comes first, since it brings what may be read. */
#ifndef BERTH_IMPORTS_H
#define BERTH_IMPORTS_H

#include "layer.h"
#include "wire/wire.h"

/* Takes image_import, which is the message at hand: confines the process, makes the image, answers
 * image_imported or work_failed. -1: the link is broken, or the walls do not stand.
 *   out_x   owned by the caller afterwards */
int imports_take(struct wire *w, struct layer_options *o, int *out_store, int *out_cache,
		 int *out_scratch, struct err *err) must_check;
/* Serves image_remove, which is the message at hand. */
int imports_remove(struct wire *w, const struct layer_options *o, struct err *err) must_check;

#endif
