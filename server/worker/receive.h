/* A worker's job that begins with import_job: a snapshot comes in through a pipe. */
#ifndef BERTH_RECEIVE_H
#define BERTH_RECEIVE_H

#include "layer.h"
#include "wire/wire.h"

/* Takes import_job, which is the message at hand: confines the process to the store, reads the
 * pipe, answers layers_imported or work_failed. -1: the link is broken, or the walls do not stand.
 *   mirror         its directory, which gets the layers before they are answered; -1: there is none
 *   refused        why nothing may be archived now; NULL: it may
 *   out_store, o   the caller goes on with them */
int receive_take(struct wire *w, const struct layer_watch *watch, int mirror,
		 const struct err *refused, struct layer_options *o, int *out_store,
		 struct err *err) must_check;

#endif
