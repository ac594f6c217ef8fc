/* What happens between the keeper's clone and the first instruction of berth-init: namespaces,
 * mounts, names, rights. Everything here runs in processes of its own that end or exec; each step
 * has a name, and the one that failed is reported through a pipe. */
#ifndef BERTH_SANDBOX_H
#define BERTH_SANDBOX_H

#include <linux/filter.h>
#include <stdbool.h>
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
	uint64_t files, tmp_bytes; /* 0: as ever */
	int socket, report; /* lent: the end for init, and the pipe for struct sandbox_report */
	const struct sock_filter *filter;
	unsigned short filter_len;
};

/* One record on the pipe, written whole (it is smaller than PIPE_BUF). The launching process tells
 * the pid of pid 1; whoever fails tells the step. End of file with a pid and no failure: berth-init
 * was executed. */
struct sandbox_report {
	int pid;   /* of pid 1, outside; 0: this is a failure */
	int error; /* errno */
	char step[SANDBOX_TEXT_BYTES];
	char at[SANDBOX_TEXT_BYTES]; /* which of several: a path; may be empty */
};

/* For the launching process, which the keeper has cloned into the session's cgroup: joins the user
 * namespace, clones pid 1 as a child of the keeper, reports its pid and exits. */
_Noreturn void sandbox_launch(const struct sandbox_plan *plan);

#endif
