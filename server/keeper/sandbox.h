/* What happens between the keeper's clone and the first instruction of berth-init: namespaces,
 * mounts, names, rights. Everything here runs in processes of its own that end or exec; each step
 * has a name, and the one that failed is reported through a pipe. */
#ifndef BERTH_SANDBOX_H
#define BERTH_SANDBOX_H

#include "wire/wire.h"

#include <linux/filter.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SANDBOX_FILTER_MAX = 4096 }; /* the kernel's own bound of one program: BPF_MAXINSNS */
enum { SANDBOX_TEXT_BYTES = 64 };

struct sandbox_plan {
	const char *hostname;
	bool network_host;
	int rootfs, userns, init;  /* lent */
	int usr, run;              /* lent, -1: none */
	int netns, sys, resolv;    /* lent, -1: none; netns: pid 1 starts in it */
	int join[3];               /* lent: v1 cgroup.procs of its limits, -1: none */
	unsigned ids;              /* inside; 1: root alone */
	uint64_t files, tmp_bytes; /* 0: as ever */
	uint64_t pids, data_bytes; /* as resource limits; 0: none */
	/* enum keeper_wall; the node's directories (lent, -1: none), and where each goes (lent) */
	uint32_t walls;
	int mount[KEEPER_MOUNTS_MAX];
	const char *mount_at[KEEPER_MOUNTS_MAX];
	int lock;           /* lent: init holds it too, so that it tells of init's life; -1: it does not */
	int socket, report; /* lent: the end for init, and the socket for struct sandbox_report */
	const struct sock_filter *filter;
	unsigned short filter_len;
};

/* One packet. The launching process tells the pid of pid 1; pid 1 its procfs, beside a record
 * without pid and error; whoever fails tells the step. End of file with a pid and no failure:
 * berth-init was executed. */
struct sandbox_report {
	int pid;   /* of pid 1, outside; 0: something else */
	int error; /* errno */
	char step[SANDBOX_TEXT_BYTES];
	char at[SANDBOX_TEXT_BYTES]; /* which of several: a path; may be empty */
};

struct inside; /* tree.h */

struct step {
	const char *name;
	int (*run)(struct inside *in); /* -1 and errno, and in->at: at what */
};

/* Runs them in order; the one that fails is reported, and ends the process. */
void sandbox_run(struct inside *in, const struct step *steps, size_t n);
/* Steps that do not need namespaces. */
int sandbox_lower_priority(struct inside *in);
int sandbox_set_limits(struct inside *in);
int sandbox_set_limits_of_cgroups(struct inside *in);
int sandbox_join_keyring(struct inside *in);
int sandbox_reset_signals(struct inside *in);
int sandbox_lay_out_fds(struct inside *in);
int sandbox_load_filter(struct inside *in);
/* Replaces this process by berth-init, when all steps are done. */
_Noreturn void sandbox_become_init(struct inside *in);
/* Takes the plan's fds out of the way of what is laid out for berth-init. */
void sandbox_begin(struct inside *in, const struct sandbox_plan *plan);

/* For the launching process, which the keeper has cloned into the session's cgroup: joins the user
 * namespace, clones pid 1 as a child of the keeper, reports its pid and exits. */
_Noreturn void sandbox_launch(const struct sandbox_plan *plan);

#endif
