/* The manager's half of an engine: a session's mounts, user namespace and cgroup, as fds for its
 * keeper. Runs with all rights, so it reads nothing that a session wrote. */
#ifndef BERTH_PREPARE_H
#define BERTH_PREPARE_H

#include "base/buf.h"
#include "base/err.h"
#include "manager/governor.h"
#include "wire/wire.h"

#include <stdbool.h>

enum { LOWERS_MAX = 64, PREPARE_IMAGES_MAX = 128 };

/* What this node can do, probed once at start (node_open). */
struct node {
	int state;    /* owned: STATE through its nosuid,nodev mount; derive all others from it */
	int run;      /* lent: RUN */
	int init_exe; /* owned: berth-init, O_PATH */
	int seccomp;  /* owned: sealed memfd with the sessions' program */
	int cgroup;   /* owned: our directory in the v2 hierarchy, -1: none */
	char cgroup_name[64]; /* its name: berth-<8 hex of the state directory's path> */
	char cgroup_why[128]; /* why there is none; empty: there is one */
	struct governor governor[GOVERNORS]; /* what enforces limits */
	char rung[16];        /* "root" */
	unsigned uid_base;
};

struct workspace {
	const char *id;    /* s_… */
	unsigned slot;     /* uid range: node.uid_base + slot * 65536 */
	int session_dir;   /* lent: sessions/<id>, opened beneath node.state */
	unsigned upper;    /* N of upper.N: made when absent (upper.N/fs, upper.N/work) */
	bool fresh_work;   /* an unclean upper is mounted again: drop and remake its work */
	const int *lowers; /* lent: directories beneath node.state, the topmost first */
	size_t n_lowers;
	int image;         /* lent: the image's root directory, below all lowers */
	const int *images; /* lent: the image's further directories, on top of that one */
	size_t n_images;   /* the topmost first */
	bool image_host;   /* bind the node's /usr over it */
	const struct limits *limits; /* lent; NULL: none */
	bool alone; /* the caller is a process for this alone, and ends after it: no other is forked */
};

/* The ids of a slot: the session's root (uid and gid), and the uid of its keeper, whose gid is the
 * session root's. */
static inline unsigned
node_session_uid(const struct node *n, unsigned slot)
{
	return n->uid_base + slot * 65536u;
}
static inline unsigned
node_keeper_uid(const struct node *n, unsigned slot)
{
	return n->uid_base - 200000u + slot;
}
/* How many slots this uid_base leaves below the end of all uids. */
unsigned node_slots(unsigned uid_base);

/* libexec: directory of berth-init. Makes the private mount namespace, binds STATE on itself
 * nosuid,nodev, compiles the seccomp program, finds the cgroup. Called once, before any fd beneath
 * STATE is opened for keeps: fds from before belong to the old mount namespace and cannot be
 * mounted. state   lent, not needed afterwards: n->state takes its place fails   DENIED when we are
 * not root with CAP_SYS_ADMIN */
int node_open(struct node *n, int state, int run, const char *state_path, const char *libexec,
	      unsigned uid_base, struct err *err) must_check;
/* Live sessions are not touched: the next manager finds them where they are. */
void node_close(struct node *n);

/* Fills the slots ROOTFS USR USERNS INIT SECCOMP CGROUP FREEZE KILL EVENTS RUN JOIN_* *_EVENTS of fds (owned by the
 * caller afterwards; /dev/null where there is nothing). CALLS, SPILL, LOCK and LISTEN are the
 * caller's. On failure nothing stays open or mounted.
 *   spill   lent: sessions/<id>/spill, beneath node.state; -1: no /run/berth/out. It is the
 * keeper's uid and the session root's gid, 0750, its files 0640: inside, root reads them by group
 *   fails   AGAIN when processes of an earlier start of this session still live */
int prepare_workspace(struct node *n, const struct workspace *w, int spill, int fds[KEEPER_FDS],
		      struct err *err) must_check;
/* Whether a process of this session still lives (its cgroup is populated). */
bool prepare_is_populated(struct node *n, const char *id);
/* Kills what lives in the session's cgroup, waits until it is empty (bounded), removes it. */
int prepare_clear(struct node *n, const char *id, struct err *err) must_check;

/* The skeleton of image `host` for this node's fingerprint, made durably when absent:
 * cache/images/<fingerprint>. Returns an open directory and the image's name "host:<hex>". */
int image_host_open(int cache, char *out_name, size_t name_bytes, struct err *err) must_check;

#endif
