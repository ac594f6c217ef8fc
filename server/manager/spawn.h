/* Starting our own processes: a fixed argv, a written list of fds, nothing else inherited. */
#ifndef BERTH_SPAWN_H
#define BERTH_SPAWN_H

#include "base/err.h"

#include <sys/types.h>

/* Opens the directory where our other executables are: beside berthd in a build tree, else
 * ../libexec/berth. The text form is for messages and for node_open. */
int spawn_find_libexec(char *out, size_t out_bytes, struct err *err) must_check;

/* Starts LIBEXEC/name. fds become 3, 4, … in the child; stderr is kept, stdin and stdout are
 * /dev/null; the child leads a session of its own and outlives us unless its sockets say otherwise.
 *   argv     after argv[0], NULL-terminated; lent
 *   out_pid  our child; out_pidfd owned by the caller */
int spawn_process(const char *libexec, const char *name, const char *const *argv, const int *fds,
		  size_t n_fds, pid_t *out_pid, int *out_pidfd, struct err *err) must_check;

/* Runs a program of the system to its end, at most 30 s; its stdout and stderr are dropped.
 * Fails when it cannot be run or exits with other than 0. */
int spawn_run(const char *const *argv, struct err *err) must_check;
/* Starts one and does not wait: its end is told by *out_pidfd, owned by the caller, and it is reaped
 * where SIGCHLD is read, so that how it ended is to be seen in what it made. */
int spawn_tool(const char *const *argv, int *out_pidfd, struct err *err) must_check;

#endif
