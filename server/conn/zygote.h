/* What connections are forked from: libraries loaded, relocated and started once for many of them. */
#ifndef BERTH_ZYGOTE_H
#define BERTH_ZYGOTE_H

#include "base/err.h"

#include <stdbool.h>
#include <sys/types.h>

#define ZYGOTE_AGAIN "again" /* argv[1] of one that has executed itself */

/* What a process of a connection begins with. */
enum { FD_MANAGER = 3, FD_CLIENT = 4 };

/* Waits for connections, and returns in a process of its own for each: 1. In the zygote itself it returns
 * 0 when the manager is gone, or -1.
 *   is_again   it has executed itself
 *   out_uid    to become, and the group of the same number; 0: it stays who it is */
int zygote_run(bool is_again, uid_t *out_uid, struct err *err) must_check;

#endif
