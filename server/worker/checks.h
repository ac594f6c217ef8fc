/* What a verification asks of a worker (repair.h). */
#ifndef BERTH_CHECKS_H
#define BERTH_CHECKS_H

#include "layer.h"
#include "wire/wire.h"

/* Each serves the message at hand, and answers it. mirror: -1, or its directory. */
int checks_blob(struct wire *w, const struct layer_options *o, int mirror,
		struct err *err) must_check;
int checks_snapshot(struct wire *w, const struct layer_options *o, int mirror,
		    struct err *err) must_check;

#endif
