/* Distinct paths, each with a number from 0 on. */
#ifndef BERTH_PATH_SET_H
#define BERTH_PATH_SET_H

#include "base/buf.h"
#include "base/err.h"

#include <stdint.h>

struct path_set {
	struct buf bytes;
	struct path_set_row {
		size_t at, len;
	} * rows; /* owned */
	size_t n, cap;
	uint32_t *table; /* owned: number + 1; 0: free */
	size_t table_cap;
};

void path_set_init(struct path_set *s);
void path_set_done(struct path_set *s);
/* One that is there keeps its number. */
int path_set_add(struct path_set *s, struct str path, size_t *out, struct err *err) must_check;
bool path_set_find(const struct path_set *s, struct str path, size_t *out);
/* Lent until the next add. */
struct str path_set_at(const struct path_set *s, size_t number);
uint64_t path_set_hash(struct str path);

#endif
