/* Sums of archives, for the verb usage. */
#ifndef BERTH_USAGE_ROWS_H
#define BERTH_USAGE_ROWS_H

#include "rows.h"

struct usage_sum {
	uint64_t snapshots;
	uint64_t layers, bytes; /* archives that its snapshots list, each once */
	uint64_t own_bytes;     /* of these, what nobody else's snapshots list */
};

/* Of one session; empty: of all. */
int usage_rows_sum(struct index *ix, const char *session, struct usage_sum *out,
		   struct err *err) must_check;

#endif
