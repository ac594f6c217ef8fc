/* Host names, resolved inside for the keeper: each by a child of its own, because what answers is
 * anybody. It takes no place among the calls, and its end is told to nobody but this. */
#ifndef BERTH_LOOKUP_H
#define BERTH_LOOKUP_H

#include "wire/wire.h"

#include <sys/types.h>

/* Takes the init_resolve in w->message. */
void lookup_begin(struct wire *w);
/* A child that was no call's has been reaped: maybe one of these. */
void lookup_reaped(pid_t pid);
/* To all that run: where init is no pid 1, which has another way to all. */
void lookup_signal_all(int signal);

#endif
