/* A few formatted volumes in STATE/pool, so that no start waits for mkfs.ext4. The first one is
 * made when it is wanted, and from then on the pool is filled beside what the manager does.
 *
 * Emptied at every start of the manager: a volume leaves the pool by one rename, and after a power
 * cut what lies there may be one that a session has written into. */
#ifndef BERTH_POOL_H
#define BERTH_POOL_H

#include "base/err.h"
#include "base/loop.h"

#include <stdint.h>

struct pool;

int pool_open(struct loop *loop, int state, struct pool **out, struct err *err) must_check;
void pool_close(struct pool *p);
/* A formatted volume with room for so many bytes becomes dir/VOLUME_NAME. */
int pool_take(struct pool *p, uint64_t bytes, int dir, struct err *err) must_check;

#endif
