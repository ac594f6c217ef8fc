/* A path of a snapshot into the workspace: by a child of init, which has the session's rights. It
 * takes no place among the calls, and what comes of it is told in a pipe, in lines:
 *
 *   progress WRITTEN BYTES REMOVED SAME SKIPPED
 *   done WRITTEN BYTES REMOVED SAME SKIPPED
 *   failed CODE WHY                                  CODE: enum err_code                        */
#ifndef BERTH_PUT_H
#define BERTH_PUT_H

#include "wire/wire.h"

#include <sys/types.h>

/* Takes the init_put in w->message. */
void put_begin(struct wire *w);
/* A child that was no call's has been reaped: maybe this one. */
void put_reaped(pid_t pid);

#endif
