/* The manager's half of an engine: a session's mounts, user namespace and cgroup, as fds for its
 * keeper. Runs with all rights, so it reads nothing that a session wrote. */
#ifndef BERTH_PREPARE_H
#define BERTH_PREPARE_H

#include "base/buf.h"
#include "base/err.h"
#include "manager/governor.h"
#include "manager/networks.h"
#include "manager/profile.h"
#include "manager/rung.h"
#include "wire/wire.h"

#include <stdbool.h>

enum { LOWERS_MAX = 64, PREPARE_IMAGES_MAX = 128 };
enum { NODE_SFTP_FILES = KEEPER_SFTP_LOADER - KEEPER_SFTP_SERVER + 1 };

/* What this node can do, probed once at start (node_open). */
struct node {
	int state;    /* owned: STATE through its nosuid,nodev mount; derive all others from it */
	int run;      /* lent: RUN */
	int init_exe; /* owned: berth-init, O_PATH */
	int seccomp[PROFILES]; /* owned: sealed memfds with the sessions' programs, once needed; -1 */
	int sftp[NODE_SFTP_FILES]; /* owned: sftp_files.h; -1: there is none */
	int cgroup;   /* owned: our directory in the v2 hierarchy, -1: none */
	char cgroup_name[64]; /* its name: berth-<8 hex of the state directory's path> */
	char cgroup_why[128]; /* why there is none; empty: there is one */
	struct governor governor[GOVERNORS]; /* what enforces limits */
	struct isolation isolation;
	bool open;
	unsigned uid_base;
};

struct workspace {
	const char *id;    /* s_… */
	unsigned slot;     /* uid range: node.uid_base + slot * 65536 */
	int session_dir;   /* lent: sessions/<id>, opened beneath node.state */
	unsigned upper;    /* N of upper.N: made when absent (upper.N/fs, upper.N/work) */
	bool fresh_work;   /* an unclean upper is mounted again: drop and remake its work */
	const int *volume; /* lent: a detached mount of its own, the place of fs and work instead
			    * of the directory upper.N; it is used up. NULL: there is none */
	const int *lowers; /* lent: directories beneath node.state, the topmost first */
	const int *volumes; /* lent: the detached mounts that hold the lowers as fs/, -1 for those
			     * that are directories; used up. NULL: all are */
	size_t n_lowers;
	int image;         /* lent: the image's root directory, below all lowers */
	const int *images; /* lent: the image's further directories, on top of that one */
	size_t n_images;   /* the topmost first */
	bool image_host;   /* bind the node's /usr over it */
	const struct limits *limits; /* lent; NULL: none */
	bool nested; /* it may make user namespaces */
	const int *mounts; /* lent: directories of the node that it is shown, O_PATH */
	const bool *mounts_read_only;
	size_t n_mounts; /* at most KEEPER_MOUNTS_MAX */
	const struct network *network; /* lent; NULL: none */
	bool view; /* its lowers and image alone, without an upper, read only: the slot ROOTFS is all */
	bool alone; /* the caller is a process for this alone, and ends after it: no other is forked */
};

/* The ids of a slot: the session's root (uid and gid), and the uid of its keeper, whose gid is the
 * session root's. 0 where sessions have no ids of their own: nobody changes his then. */
static inline unsigned
node_session_uid(const struct node *n, unsigned slot)
{
	return n->isolation.own_uids ? n->uid_base + slot * 65536u : 0;
}
static inline unsigned
node_keeper_uid(const struct node *n, unsigned slot)
{
	return n->isolation.own_uids ? n->uid_base - 200000u + slot : 0;
}
/* How many slots this uid_base leaves below the end of all uids. */
unsigned node_slots(unsigned uid_base);
/* The seccomp program of a session: lent, compiled when the first one asks for it; -1.
 *   host   it has the node's own network   nested   it may make user namespaces */
int node_seccomp(struct node *n, bool host, bool nested, struct err *err) must_check;
/* Gives what was opened beneath STATE to a session's keeper and its root, where they have ids. */
int node_give(const struct node *n, int fd, unsigned slot, mode_t mode, struct err *err) must_check;
/* Whether layers are stacked under an upper; else an upper is all that there is of a workspace. */
static inline bool
node_stacks(const struct node *n)
{
	return n->isolation.rung != RUNG_PROCESS;
}

/* For a rung that was entered (rung.h). Makes the private mount namespace, binds STATE on itself
 * nosuid,nodev, compiles the seccomp program, finds the cgroup; on the process rung only what of
 * that needs no mount. Called once, before any fd beneath STATE is opened for keeps: fds from before
 * belong to the old mount namespace and cannot be mounted.
 *   state     lent, not needed afterwards: n->state takes its place
 *   libexec   directory of berth-init */
int node_open(struct node *n, int state, int run, const char *state_path, const char *libexec,
	      unsigned uid_base, const struct isolation *isolation, struct err *err) must_check;
/* Live sessions are not touched: the next manager finds them where they are. */
void node_close(struct node *n);

/* Fills the slots ROOTFS USR USERNS INIT SECCOMP CGROUP FREEZE KILL EVENTS RUN JOIN_* *_EVENTS NETNS SYS RESOLV SFTP_* MOUNTS of fds (owned by the
 * caller afterwards; /dev/null where there is nothing). CALLS, SPILL, LOCK and LISTEN are the
 * caller's. On failure nothing stays open or mounted.
 *   spill   lent: sessions/<id>/spill, beneath node.state; -1: no /run/berth/out. It is the
 * keeper's uid and the session root's gid, 0750, its files 0640: inside, root reads them by group
 *   fails   AGAIN when processes of an earlier start of this session still live */
int prepare_workspace(struct node *n, const struct workspace *w, int spill, int fds[KEEPER_FDS],
		      struct err *err) must_check;
/* The slots SFTP_* alone. */
int prepare_sftp(const struct node *n, int fds[KEEPER_FDS], struct err *err) must_check;
/* Whether a process of this session still lives (its cgroup is populated). */
bool prepare_is_populated(struct node *n, const char *id);
/* Kills what lives in the session's cgroup, waits until it is empty (bounded), removes it. */
int prepare_clear(struct node *n, const char *id, struct err *err) must_check;

/* The directories and links of image `host`, without /etc, in an empty directory; not synced. */
int image_skeleton(int root, struct err *err) must_check;
/* The skeleton of image `host` for this node's fingerprint, made durably when absent:
 * cache/images/<fingerprint>. Returns an open directory and the image's name "host:<hex>". */
int image_host_open(int cache, char *out_name, size_t name_bytes, struct err *err) must_check;

#endif
