/* The system calls of a session, as one seccomp program: compiled once when the manager starts,
 * loaded by every pid 1 as the last thing before berth-init. */
#ifndef BERTH_PROFILE_H
#define BERTH_PROFILE_H

#include "base/err.h"

#include <stdbool.h>

/* Returns a sealed, read-only memfd of struct sock_filter[], at most BPF_MAXINSNS of them.
 *   nested  allow user namespaces, and what programs do in those of their own: mount, pivot, enter,
 *           name */
int profile_compile(bool nested, struct err *err) must_check;

#endif
