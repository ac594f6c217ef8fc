/* The manager's half of an engine without namespaces: a workspace is a directory. */
#ifndef BERTH_PLAIN_H
#define BERTH_PLAIN_H

#include "manager/prepare.h"

enum { PLAIN_PATH_BYTES = 257 }; /* as in keeper_start */

/* As prepare_workspace: ROOTFS is upper.N/fs, RUN the directory of spilled output. */
int plain_workspace(struct node *n, const struct workspace *w, int spill, int fds[KEEPER_FDS],
		    struct err *err) must_check;
/* What `name` in a workspace is called on the node: there is no other name for it.
 *   fails   CONFIG when it is longer than a call can be told */
int plain_path(int rootfs, const char *name, char out[PLAIN_PATH_BYTES], struct err *err) must_check;

#endif
