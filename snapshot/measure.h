/* How much an upper holds on disk. */
#ifndef BERTH_MEASURE_H
#define BERTH_MEASURE_H

#include "base/err.h"

#include <stdint.h>

/* Bytes of blocks, a file with several names once. upper: lent. */
int measure_upper(int upper, uint64_t *out_bytes, uint64_t *out_entries,
		  struct err *err) must_check;

#endif
