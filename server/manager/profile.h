/* The system calls of a session, as one seccomp program: compiled once when the manager starts,
 * loaded by every pid 1 as the last thing before berth-init. */
#ifndef BERTH_PROFILE_H
#define BERTH_PROFILE_H

#include "base/err.h"

#include <stdbool.h>

/* Returns a sealed, read-only memfd of struct sock_filter[], at most BPF_MAXINSNS of them.
 *   internet   sockets of IPv4 and IPv6: false where no network namespace stands in their way */
int profile_compile(bool internet, struct err *err) must_check;

#endif
