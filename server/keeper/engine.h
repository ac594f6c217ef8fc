/* What holds a session: the half of an engine that runs in the keeper. The other half,
 * prepare(spec) -> fds, is in the manager (manager/prepare.h).
 *
 * Nothing above this interface may assume namespaces or cgroups: a call's streams are fds that the
 * engine delivers, and everything that may not exist has a way to say so. */
#ifndef BERTH_ENGINE_H
#define BERTH_ENGINE_H

#include "base/buf.h"
#include "base/err.h"
#include "wire/wire.h"

#include <stdbool.h>
#include <sys/types.h>

struct sandbox_spec {
	const char *hostname, *session;
	unsigned uid_base;	/* root inside is uid_base outside, 65536 ids follow */
	bool network_host;	/* no network namespace of its own */
	unsigned ids;		   /* how many ids there are inside; 1: root alone */
	uint64_t files, tmp_bytes; /* open files of a process; size of each tmpfs; 0: as ever */
	uint64_t pids, data_bytes; /* as resource limits, where no cgroup holds them; 0: none */
	uint32_t walls;		/* enum keeper_wall: which of them are lower */
	const char *mount_at[KEEPER_MOUNTS_MAX]; /* lent: where KEEPER_MOUNTS go; NULL: nowhere */
	const int *fds;		/* lent: KEEPER_FDS of them, see wire.h */
};

struct procs_book; /* procs.c */

struct sandbox {
	pid_t pid;    /* pid 1 of the sandbox; our child */
	int pidfd;    /* owned; readable when it has ended */
	int socket;   /* owned until taken; SOCK_SEQPACKET to berth-init, sized as wire_pair does */
	int cgroup;   /* lent from the spec, -1 where there is none */
	int freeze_fd, kill_fd, events_fd; /* lent, -1 where there is none */
	/* without a cgroup: */
	int proc;		 /* owned: a procfs that shows its processes, -1: none */
	pid_t proc_init;	 /* init's number there */
	struct procs_book *book; /* owned */
	/* Has init signal a list of processes (procs_list); set by whoever speaks with init. */
	int (*signal_listed)(void *ctx, int list, int signal, struct err *err);
	void *signal_ctx;
};

struct sandbox_state {
	bool populated;	    /* a process lives */
	bool frozen;	    /* all of them are stopped */
	unsigned processes; /* without pid 1 */
};

struct engine {
	const char *name;
	/* Starts pid 1 and returns when berth-init was executed, or with the failed step in err. */
	int (*start)(const struct sandbox_spec *spec, struct sandbox *out, struct err *err);
	/* Asks all to stop or go on; `state` tells when it is so. events_fd is EPOLLPRI then. */
	int (*freeze)(struct sandbox *s, bool frozen, struct err *err);
	/* SIGKILL to all, frozen or not; pidfd becomes readable soon after. */
	int (*kill)(struct sandbox *s, struct err *err);
	int (*state)(struct sandbox *s, struct sandbox_state *out, struct err *err);
	/* A place for one call's processes. *out: fd for init_exec (O_PATH directory), -1: none. */
	int (*call_begin)(struct sandbox *s, const char *call, int *out, struct err *err);
	/* The call's processes that still live: pid and command line of each, a line each. The text
	 * is theirs: untrusted. Returns their number. */
	int (*call_list)(struct sandbox *s, const char *call, struct buf *out, struct err *err);
	int (*call_kill)(struct sandbox *s, const char *call, struct err *err);
	/* Removes the place when nothing lives in it. 1: gone, 0: still in use, -1. The kernel may
	 * count a process for a moment after it was waited for: 0 is then to be tried again. */
	int (*call_end)(struct sandbox *s, const char *call, struct err *err);
	/* The call's processes as a list that init can read: cgroup.procs. *out -1: there is none;
	 * an engine that never has one leaves this NULL. */
	int (*call_procs)(struct sandbox *s, const char *call, int *out, struct err *err);
	/* The call's first process, by init's number for it: told where call_begin gave no place.
	 * NULL: of no use. */
	int (*call_started)(struct sandbox *s, const char *call, pid_t first, struct err *err);
	/* A signal to all but init. NULL: init itself reaches them all, as pid 1 does. */
	int (*signal_all)(struct sandbox *s, int signal, struct err *err);
	/* Whether a process of the server's own uid may be one of a session: NULL where none can
	 * reach the keeper's sockets. */
	bool (*is_inside)(pid_t pid);
	/* The keeper itself signals processes of the session's ids. */
	bool keeps_kill;
	/* Frees what it keeps of a sandbox, when pid 1 has ended. NULL: nothing. */
	void (*done)(struct sandbox *s);
	/* Names what was started without a name, by whoever started it and has its rights still. NULL:
	 * there is nothing to name. */
	int (*set_name)(struct sandbox *s, const char *hostname, struct err *err);
	/* A session of it sees KEEPER_SPILL as /run/berth/out. */
	bool shows_spill;
	/* Processor time of all processes that were ever in the call's place, as the kernel counts
	 * it. NULL: it does not, and init's word is all there is. 1: *out_ns, 0: this engine has no
	 * such places here, -1. */
	int (*call_cpu)(struct sandbox *s, const char *call, uint64_t *out_ns, struct err *err);
};

/* The default: our own launcher (launch.c). */
extern const struct engine engine_launch;
/* Without namespaces: Landlock, seccomp, resource limits (process.c). */
extern const struct engine engine_process;

#endif
