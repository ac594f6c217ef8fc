/* Keeps sessions from filling the store, beneath whatever else holds their limits (means.h): a
 * watcher looks at the free space often and asks what each session holds, of its means where that
 * counts, else of a worker that measures the upper. A session above its limit that nothing else
 * holds, or the one that grows while the store is nearly full, is frozen, and told so.
 *
 *  0. free is what the store has, less what volumes have promised and not yet taken from it;
 *  1. what is measured is what stands in the upper: since the session's last pause;
 *  2. soft: what is written between two looks goes through; the reserve is there to take it;
 *  3. frozen is no loss: raising the limit, or room in the store, lets it go on; a pause, restore
 *     or rm of it works meanwhile. */
#ifndef BERTH_DISK_H
#define BERTH_DISK_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct manager;
struct session;

struct disk_use {
	pid_t keeper; /* whom this is about */
	bool known, suspended, for_reserve;
	bool counted;            /* by its means; else measured */
	uint64_t bytes, grown;  /* now, and since the measurement before */
	uint64_t free_then;     /* the store's free bytes at the last measurement */
	uint64_t not_before_ns; /* measuring shall not be what the node is busy with */
};

/* The first look is now. */
int disk_begin(struct manager *m, struct err *err) must_check;
void disk_end(struct manager *m);
void disk_forget(struct session *s);
/* Its limit has changed. */
void disk_look_soon(struct session *s);

#endif
