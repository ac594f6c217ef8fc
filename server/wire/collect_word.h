/* One thing of the store in the messages of a collector: the form of `items`. */
#ifndef BERTH_COLLECT_WORD_H
#define BERTH_COLLECT_WORD_H

#include "base/digest.h"

enum { COLLECT_WORD_BYTES = 82, COLLECT_PAGE_MAX_BYTES = 1600 * COLLECT_WORD_BYTES };

/* As the worker's collect_kind. */
enum collect_word_kind {
	COLLECT_WORD_BLOB = 1,
	COLLECT_WORD_IDX,
	COLLECT_WORD_REF,
	COLLECT_WORD_CACHE,
	COLLECT_WORD_SESSION,
};

struct collect_word {
	uint8_t kind;
	struct digest digest, of;
	bool has_of;
	uint64_t bytes, mtime_ns;
};

void collect_word_put(struct buf *out, const struct collect_word *w);
/* Moves *items behind it. CORRUPT: there is none. */
int collect_word_take(struct str *items, struct collect_word *out, struct err *err) must_check;

#endif
