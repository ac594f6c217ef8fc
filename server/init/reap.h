/* The live calls of this init, and what is left of them when they end.
 *
 * Invariants: (1) at most REAP_CALLS_MAX live at a time, all memory taken at start; (2) a pid in
 * the table is our child and not reaped yet, so a signal to it or its group hits nobody else. */
#ifndef BERTH_INIT_REAP_H
#define BERTH_INIT_REAP_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum { REAP_CALLS_MAX = 4096 };

struct reaped {
	pid_t pid;
	uint32_t call;
	uint32_t wait_status; /* as wait(2) */
	uint32_t exec_errno;  /* 0: the command was executed */
	uint64_t cpu_ns, peak_bytes;
};

int reap_init(struct err *err) must_check;
/* In a child that is no call's: it shares nothing with us any more. */
void reap_leave(void);
/* A place for a call: its number, -1 when all are taken or the call lives already. */
int reap_reserve(uint32_t call);
void reap_set_pid(int place, pid_t pid);
void reap_release(int place);
/* Where the child leaves the errno of an exec that failed: memory shared with it. */
int *reap_exec_errno(int place);

/* Collects one dead child: 1 it was a call's (out is filled), 0 another's (its pid is), -1 none. */
int reap_one(struct reaped *out);
/* To a call's process group, or its first process while it has no group of its own yet. */
void reap_signal(uint32_t call, int signal);
/* To every process of a list of pids, one a line, as the kernel writes it for whoever reads it. */
void reap_signal_listed(int list, int signal);
/* To every process but this one; where this is no pid 1, to the groups of all calls. */
void reap_signal_all(int signal);
/* Kills all of them. No pid 1, but a reaper of orphans (PR_SET_CHILD_SUBREAPER): what its calls left
 * behind, too, for which it waits, 10 s at most. */
void reap_end_all(void);

#endif
