/* What a collector asks of a worker: what is there, and the end of single things (collect.h). */
#ifndef BERTH_COLLECTS_H
#define BERTH_COLLECTS_H

#include "collect.h"
#include "recall.h"
#include "wire/wire.h"

struct collects {
	struct collect_list list; /* of the last scan, told page by page */
	struct digest *named;     /* owned: what refs name once those that go have gone */
	size_t n_named;
	bool refs_gone;        /* index.json names what is not there any more */
	struct recall *recall; /* owned; begun by the first store_next */
};

void collects_done(struct collects *c);
/* Each serves the message at hand, and answers it. */
int collects_scan(struct collects *c, struct wire *w, const struct layer_options *o,
		  struct err *err) must_check;
int collects_remove(struct collects *c, struct wire *w, const struct layer_options *o, int mirror,
		    struct err *err) must_check;
int collects_next(struct collects *c, struct wire *w, const struct layer_options *o,
		  struct err *err) must_check;
int collects_trees(struct collects *c, struct wire *w, const struct layer_options *o, int dir,
		   struct err *err) must_check;

#endif
