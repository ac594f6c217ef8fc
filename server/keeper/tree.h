/* The tree of files that a sandbox sees, made step by step in its pid 1: the workspace as root, the
 * node's /usr over it, devices, /proc, /sys, /run, and what of those is hidden. */
#ifndef BERTH_TREE_H
#define BERTH_TREE_H

#include "sandbox.h"

enum { TREE_DEVICES = 6 };

struct inside {
	const struct sandbox_plan *plan;
	const char *at;   /* lent: what the running step is at, for its report */
	int init, report; /* the plan's, out of the way of what is laid out for berth-init */
	int device[TREE_DEVICES];
};

/* Steps in the order in which they must run. Each returns 0, or -1 with errno and in->at. */
int tree_leave_propagation(struct inside *in);
int tree_take_devices(struct inside *in);
int tree_attach_workspace(struct inside *in);
int tree_attach_usr(struct inside *in);
int tree_attach_resolv(struct inside *in);
int tree_mount_proc(struct inside *in);
int tree_mount_dev(struct inside *in);
int tree_mount_sys(struct inside *in);
int tree_mount_run(struct inside *in);
int tree_mount_tmp(struct inside *in);
int tree_mount_whole_proc(struct inside *in);
int tree_attach_mounts(struct inside *in);
int tree_pivot(struct inside *in);
int tree_protect_proc(struct inside *in);
int tree_mask(struct inside *in);
/* The root alone, after all that is made in it. */
int tree_seal(struct inside *in);

#endif
