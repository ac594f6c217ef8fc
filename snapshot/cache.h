/* The layer cache: directories that overlayfs stacks, each with a marker beside it.
 *
 *   CACHE/layers/<hex>        unpacked
 *   CACHE/layers/<hex>.json   {"boot_id": …, "synced": …, "bytes": …}; its mtime: the last use
 *   CACHE/layers/.tmp.<hex>   being unpacked; locked by who does it
 *
 * A rename may be durable while the data of what was renamed is not. So a layer is trusted when its
 * marker says that it was synced, or that this boot made it; else it is unpacked again. */
#ifndef BERTH_CACHE_H
#define BERTH_CACHE_H

#include "layer.h"

struct cache_new {  /* a layer that is being made */
	int layers; /* owned; CACHE/layers */
	int dir;    /* owned; empty at first */
	char tmp[32];
};

#define CACHE_NEW_NONE ((struct cache_new){.layers = -1, .dir = -1})
#define auto_cache_new __attribute__((cleanup(cache_abort))) struct cache_new

int cache_begin(int cache, struct cache_new *c, struct err *err) must_check;
/* The same in CACHE/<place>, whose owner gives it its name (image_layer.c). */
int cache_begin_in(int cache, const char *place, struct cache_new *c, struct err *err) must_check;
/* Marks it as of this boot and not synced, and gives it its name. What stood there untrusted goes.
 */
int cache_commit(struct cache_new *c, const struct digest *d, struct err *err) must_check;
void cache_abort(struct cache_new *c);
/* What a layer of CACHE/layers holds on disk; measured once, and kept in its marker. */
int cache_measure(int layers, const struct digest *d, uint64_t *out_bytes,
		  struct err *err) must_check;
/* For an error of NO_SPACE: says how much was needed (as far as it is known) and is free. */
int cache_say_space(const struct cache_new *c, uint64_t needed_bytes, struct err *err);

#endif
