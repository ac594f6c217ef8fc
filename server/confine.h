/* Rights given up, one function a role: called before the first foreign byte is read. What each
 * process may still do stands at the top of its main file; e2e/test_confinement.py tries the rest.
 */
#ifndef BERTH_CONFINE_H
#define BERTH_CONFINE_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* zygote: of all capabilities those which its children need to become somebody without any. */
int confine_zygote(struct err *err) must_check;
/* conn: no new files, processes, sockets. uid, gid: what it becomes (0: stays, when not root). */
int confine_conn(uid_t uid, gid_t gid, struct err *err) must_check;
/* keeper, after it has cloned pid 1: its own uid, no capability, no new process, and of the file
 * system only what its directory fds lead to.
 *   keep_kill   CAP_KILL stays, and pidfds can be opened: for an engine without namespaces */
int confine_keeper(uid_t uid, gid_t gid, bool keep_kill, struct err *err) must_check;
/* worker: capabilities for foreign-owned files alone, Landlock on the directories of its job.
 *   dirs   lent; n of them: the only trees in which it can open anything */
int confine_worker(const int *dirs, size_t n, struct err *err) must_check;
/* The same, with trees that it may only read. */
int confine_worker_reading(const int *dirs, size_t n, const int *sources, size_t n_sources,
			   struct err *err) must_check;

/* A worker that reads: no file is made or changed, whatever is open already.
 *   foreign   files of any owner can be read */
int confine_reader(const int *dirs, size_t n, bool foreign, struct err *err) must_check;

/* The parts, for those functions and for the launcher. */
/* Becomes uid:gid for good, without groups. 0 for both: nothing. */
int confine_identity(uid_t uid, gid_t gid, struct err *err) must_check;
/* Leaves these capabilities (bits 1 << CAP_x) in all sets but the ambient one, drops the rest from
 * the bounding set too. */
int confine_capabilities(unsigned long long keep, struct err *err) must_check;
/* No new privileges, and a seccomp filter that answers EPERM to all but the n system calls. Other
 * architectures' calls kill the process. Under ASan the named extra calls are added. */
int confine_syscalls(const int *allowed, size_t n, struct err *err) must_check;
/* Landlock: files can be opened beneath these directories only. Success and a log line where the
 * kernel has no Landlock.
 *   sources   those of which files and lists can be read, and nothing else done */
int confine_files(const int *dirs, size_t n, const int *sources, size_t n_sources,
		  struct err *err) must_check;

enum confine_right { CONFINE_ALL, CONFINE_READ, CONFINE_RUN, CONFINE_DEVICE };
struct confine_rule {
	int fd; /* lent; a directory, or one file; -1: none */
	enum confine_right right;
};
/* The same with a right for each. scoped: signals and abstract Unix sockets end at the domain, too,
 * where the kernel knows that (Landlock 6).
 *   returns   the version of Landlock, 0 where there is none */
int confine_landlock(const struct confine_rule *rules, size_t n, bool scoped,
		     struct err *err) must_check;

#endif
