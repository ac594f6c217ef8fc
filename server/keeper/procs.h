/* The processes of a session that has no cgroup, by what /proc says: all that descend from init.
 * Numbers are those of the procfs that was given, which is the kernel's word, not the session's.
 *
 * A call's processes are those of its first process's session (setsid(2)) and what descends from
 * it. A process that leaves both, by a double fork and a setsid of its own, cannot be told from
 * another call's: that takes a cgroup. */
#ifndef BERTH_PROCS_H
#define BERTH_PROCS_H

#include "engine.h"

struct proc {
	pid_t pid, parent, session;
	uint64_t started; /* in ticks since boot: with the pid, who it is */
	char state;	  /* as in proc(5) */
	bool ours;
};

struct procs { /* one look */
	struct proc *at; /* owned; by pid */
	size_t n;
};

#define auto_procs __attribute__((cleanup(procs_done))) struct procs
void procs_done(struct procs *p);
/* Those that descend from `root`, itself not among them; processes that have ended and wait for
 * their parent are. proc: lent, the root of a procfs. At most PROCS_MAX are looked at: UNAVAILABLE
 * where there are more. */
enum { PROCS_MAX = 65536 };
int procs_look(int proc, pid_t root, struct procs *out, struct err *err) must_check;
/* Whether a number still stands for who it stood for. */
bool procs_is(int proc, const struct proc *p);
/* Of those, the ones of a call whose first process is or was `first`. */
void procs_keep_call(struct procs *p, pid_t first);
/* A list of pids, one a line, as init reads it (init_signal_listed). */
int procs_list(const struct procs *p, struct err *err) must_check;

/* The command line of a process, or its name in brackets where it has none: text of the session's,
 * made safe for a terminal and for JSON, and bounded. */
void procs_add_command(int proc, pid_t pid, struct buf *out);

/* ---- an engine's functions for a sandbox without a cgroup ---- */

/* How a signal comes to them: by init, or by the keeper's own hand. */
typedef int (*procs_send_fn)(struct sandbox *s, const struct procs *to, int signal, struct err *err);

struct stopper { /* what freezes by SIGSTOP */
	bool wanted;
	struct procs stopped; /* those that we have stopped: only they are continued */
	struct procs last;    /* the look before, while `wanted` */
	bool settled;	      /* two looks in a row saw the same, all of it stopped */
};

int procs_freeze(struct sandbox *s, bool frozen, procs_send_fn send, struct err *err) must_check;
/* While a freeze is wanted: stops what was born since, too. Two equal looks in which nothing runs
 * prove that nothing can: whoever was missed by the first had a parent that ran. */
int procs_state(struct sandbox *s, struct sandbox_state *out, procs_send_fn send,
		struct err *err) must_check;
void procs_free(struct sandbox *s);

/* engine.h's functions on calls. */
int procs_call_started(struct sandbox *s, const char *call, pid_t first, struct err *err) must_check;
int procs_call_list(struct sandbox *s, const char *call, struct buf *out, struct err *err) must_check;
int procs_call_procs(struct sandbox *s, const char *call, int *out, struct err *err) must_check;
int procs_call_kill(struct sandbox *s, const char *call, procs_send_fn send,
		    struct err *err) must_check;
int procs_call_end(struct sandbox *s, const char *call, struct err *err) must_check;

#endif
