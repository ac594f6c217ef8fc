/* The system calls of a session, as one seccomp program: compiled once when the manager starts,
 * loaded by every pid 1 as the last thing before berth-init. */
#ifndef BERTH_PROFILE_H
#define BERTH_PROFILE_H

#include "base/err.h"

#include <stdbool.h>

enum profile {
	PROFILE_INTERNET = 1, /* sockets of IPv4 and IPv6: not where no network namespace holds them */
	PROFILE_NESTED = 2,   /* user namespaces, and what programs do in those of their own: mount, pivot,
				* enter, name */
	PROFILE_CLONE3 = 4,   /* whose flags no filter sees: not where nothing else stops namespaces.
				* Programs take clone instead */
	PROFILES = 8	      /* as many programs as there are choices */
};

/* Returns a sealed, read-only memfd of struct sock_filter[], at most BPF_MAXINSNS of them.
 *   with   enum profile */
int profile_compile(unsigned with, struct err *err) must_check;

#endif
