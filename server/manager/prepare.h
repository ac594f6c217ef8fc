/* The manager's half of an engine: a session's mounts, user namespace and cgroup, as fds for its
 * keeper. Runs with all rights, so it reads nothing that a session wrote. */
#ifndef BERTH_PREPARE_H
#define BERTH_PREPARE_H

#include "base/buf.h"
#include "base/err.h"
#include "wire/wire.h"

#include <stdbool.h>

enum { LOWERS_MAX = 64 };

/* What this node can do, probed once at start (node_open). */
struct node {
	int state, run;	  /* lent: STATE and RUN directories */
	int init_exe;	  /* owned: berth-init, O_PATH */
	int seccomp;	  /* owned: sealed memfd with the sessions' program */
	int cgroup;	  /* owned: our directory in the v2 hierarchy, -1: none */
	char cgroup_name[64]; /* its name: berth-<8 hex of the state directory's path> */
	char rung[16];	  /* "root" */
	unsigned uid_base;
};

struct workspace {
	const char *id;	       /* s_… */
	unsigned slot;	       /* uid range: node.uid_base + slot * 65536 */
	int session_dir;       /* lent: sessions/<id> */
	unsigned upper;	       /* N of upper.N: made when absent (upper.N/fs, upper.N/work) */
	bool fresh_work;       /* an unclean upper is mounted again: drop and remake its work */
	const int *lowers;     /* lent: directories, the topmost first; the image comes below them */
	size_t n_lowers;
	int image;	       /* lent: the image's root directory */
	bool image_host;       /* bind the node's /usr over it */
};

/* libexec: directory of berth-init. Makes the private mount namespace, binds STATE on itself
 * nosuid,nodev, compiles the seccomp program, finds the cgroup. */
int node_open(struct node *n, int state, int run, const char *state_path, const char *libexec,
	      unsigned uid_base, struct err *err) must_check;
void node_close(struct node *n);

/* Fills the slots ROOTFS USR USERNS INIT SECCOMP CGROUP FREEZE KILL EVENTS RUN of fds (owned by the
 * caller afterwards; /dev/null where there is nothing). CALLS, SPILL, LOCK and LISTEN are the
 * caller's. On failure nothing stays open or mounted. */
int prepare_workspace(struct node *n, const struct workspace *w, int spill,
		      int fds[KEEPER_FDS], struct err *err) must_check;
/* Whether a process of this session still lives (its cgroup is populated). */
bool prepare_is_populated(struct node *n, const char *id);
/* Kills what lives in the session's cgroup, waits until it is empty (bounded), removes it. */
int prepare_clear(struct node *n, const char *id, struct err *err) must_check;

/* The skeleton of image `host` for this node's fingerprint, made durably when absent:
 * cache/images/<fingerprint>. Returns an open directory and the image's name "host:<hex>". */
int image_host_open(int cache, char *out_name, size_t name_bytes, struct err *err) must_check;

#endif
