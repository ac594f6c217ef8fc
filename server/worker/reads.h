/* A worker's job that is reading: what files, cat, diff, find and export print goes into a pipe,
 * which a conn reads. Its message comes first, since it brings other fds than `job`. */
#ifndef BERTH_READS_H
#define BERTH_READS_H

#include "layer.h"
#include "wire/wire.h"

/* Takes read_job, which is the message at hand, then views and what to do with them; confines the
 * process, answers worked or work_failed. -1: the link is broken, or the walls do not stand. */
int reads_take(struct wire *w, const struct layer_watch *watch, struct err *err) must_check;

#endif
