/* What this node can do, and the walls that stand once for all sessions.
 *
 * Invariants
 *  1. everything beneath STATE is reached through a mount that is nosuid,nodev: a session's setuid
 *     file lies there with its native ids, and must be nothing to the node's own users;
 *  2. berth-init is a file that session root can neither read nor write: owned by a uid that no
 *     session maps, mode 0711. */
#include "prepare.h"
#include "base/fd.h"
#include "base/path.h"
#include "cgroup.h"
#include "profile.h"
#include "sealed.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif

unsigned
node_slots(unsigned uid_base)
{
	return (0xfffffffeu - uid_base) / 65536u; /* the last two ids mean "none" */
}

int
node_seccomp(struct node *n, bool host, bool nested, struct err *err)
{
	/* Without namespaces the filter alone keeps a session from the node's network. */
	const bool walled = n->isolation.rung != RUNG_PROCESS;
	const unsigned with = (host || walled ? PROFILE_INTERNET : 0) | (walled ? PROFILE_CLONE3 : 0) |
			      (nested ? PROFILE_NESTED : 0);

	if (n->seccomp[with] < 0)
		n->seccomp[with] = profile_compile(with, err);
	return n->seccomp[with];
}

int
node_give(const struct node *n, int fd, unsigned slot, mode_t mode, struct err *err)
{
	if (n->isolation.own_uids &&
	    fchown(fd, node_keeper_uid(n, slot), node_session_uid(n, slot)) < 0)
		return err_sys(err, errno, "give it to the session's keeper");
	return fchmod(fd, mode) < 0 ? err_sys(err, errno, "set its mode") : 0;
}

/* ---- STATE ---- */

/* fds belong to the mount namespace in which they were opened, so STATE is opened once more, by its
 * path, in ours; that it is the same directory is checked. */
static int
bind_state(int state, const char *path, struct err *err)
{
	struct mount_attr safe = {.attr_set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV,
				  .propagation = MS_PRIVATE};
	struct stat was, is;

	auto_close int tree =
	    open_tree(AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
	if (tree < 0)
		return err_sys(err, errno, "copy the mount of %s", path);
	if (mount_setattr(tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &safe, sizeof safe) < 0)
		return err_sys(err, errno, "make %s nosuid,nodev", path);
	if (move_mount(tree, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH) < 0)
		return err_sys(err, errno, "mount %s on itself", path);
	auto_close int fd = openat(tree, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &is) < 0 || fstat(state, &was) < 0)
		return err_sys(err, errno, "open %s again", path);
	if (is.st_dev != was.st_dev || is.st_ino != was.st_ino)
		return err_set(err, ERR_INTERNAL, "%s is not the directory it was", path);
	return fd_steal(&fd);
}

static int
enter_mounts(struct err *err)
{
	if (unshare(CLONE_NEWNS) < 0)
		return err_sys(err, errno, "make a mount namespace");
	if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
		return err_sys(err, errno, "keep our mounts from the node");
	return 0;
}

/* ---- berth-init ---- */

static int
is_unreadable(const struct stat *st)
{
	return st->st_uid == 0 && st->st_gid == 0 && (st->st_mode & 07777) == 0711;
}

/* In memory: /run may be noexec, and STATE is for data. */
static int
copy_init(int file, const struct isolation *i, struct err *err)
{
	const unsigned owner = i->rung != RUNG_PROCESS ? i->init_owner : SEALED_OWN;

	return sealed_copy(file, "berth-init", owner, 0711, O_PATH, err);
}

static int
open_init(const char *libexec, const struct isolation *i, struct err *err)
{
	struct stat st;

	auto_close int dir = open(libexec, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return err_sys(err, errno, "open %s", libexec);
	auto_close int file = openat(dir, "berth-init", O_RDONLY | O_CLOEXEC);
	if (file < 0)
		return err_sys(err, errno, "open %s/berth-init", libexec);
	if (fstat(file, &st) < 0 || !S_ISREG(st.st_mode))
		return err_set(err, ERR_CONFIG, "%s/berth-init is not a file", libexec);
	if (i->rung != RUNG_ROOT || !is_unreadable(&st))
		return copy_init(file, i, err);
	const int fd = openat(dir, "berth-init", O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return err_sys(err, errno, "open %s/berth-init", libexec);
	return fd;
}

/* ---- the whole ---- */

static int
find_cgroup(struct node *n, struct err *err)
{
	char link[64], path[4096];
	struct err why;

	/* Its one true spelling: another way to the same STATE must find the same cgroups. */
	snprintf(link, sizeof link, "/proc/self/fd/%d", n->state);
	const ssize_t k = readlink(link, path, sizeof path - 1);
	if (k < 0)
		return err_sys(err, errno, "read the path of the state directory");
	path[k] = '\0';
	n->cgroup = cgroup_open_node(path, n->cgroup_name, sizeof n->cgroup_name, &why);
	if (n->isolation.rung == RUNG_PROCESS && n->cgroup >= 0) {
		/* What init is given of it must be a mount of its own (cgroup.c), which takes rights */
		err_set(&why, ERR_UNAVAILABLE, "the process rung uses none");
		fd_close(&n->cgroup);
	}
	if (n->cgroup < 0) /* a node can do without: engines then stop and count by /proc */
		snprintf(n->cgroup_why, sizeof n->cgroup_why, "%.120s", why.why);
	if (n->isolation.rung != RUNG_PROCESS) /* whose sessions join none */
		governor_open(n->governor, n->cgroup, n->cgroup_name);
	return 0;
}

void
node_close(struct node *n)
{
	auto_close int above = -1;
	if (n->cgroup >= 0)
		above = openat(n->cgroup, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (above >= 0)
		unlinkat(above, n->cgroup_name,
			 AT_REMOVEDIR); /* stays while a session lives in it */
	governor_close(n->governor, n->cgroup_name);
	fd_close(&n->state);
	fd_close(&n->init_exe);
	for (int i = 0; i < PROFILES; i++)
		fd_close(&n->seccomp[i]);
	for (int i = 0; i < NODE_SFTP_FILES; i++)
		fd_close(&n->sftp[i]);
	fd_close(&n->cgroup);
}

int
node_open(struct node *n, int state, int run, const char *state_path, const char *libexec,
	  unsigned uid_base, const struct isolation *isolation, struct err *err)
{
	struct node made = {.state = -1,
			    .run = run,
			    .init_exe = -1,
			    .seccomp = {-1, -1, -1, -1, -1, -1, -1, -1},
			    .sftp = {-1, -1, -1, -1},
			    .cgroup = -1,
			    .governor = {{.dir = -1}, {.dir = -1}, {.dir = -1}},
			    .isolation = *isolation,
			    .open = true,
			    .uid_base = uid_base};
	const bool mounts = isolation->rung != RUNG_PROCESS;

	if (uid_base < 400000u || node_slots(uid_base) == 0)
		return err_set(err, ERR_CONFIG, "uid_base %u leaves no room for sessions",
			       uid_base);
	if (mounts && enter_mounts(err) < 0)
		return -1;
	made.state = mounts ? bind_state(state, state_path, err) : fd_dup(state, err);
	made.init_exe = made.state < 0 ? -1 : open_init(libexec, isolation, err);
	if (made.init_exe < 0 || node_seccomp(&made, false, false, err) < 0 ||
	    find_cgroup(&made, err) < 0) {
		node_close(&made);
		return -1;
	}
	*n = made;
	return 0;
}
