/* Invariants
 *  1. a workspace's directory is its session's alone: 0700, of its uid where it has one. Then the
 *     directories above can be passed, and not listed, by all: what they hold is closed by itself;
 *  2. nothing of it is read or followed: it is opened, and three names in it are made. */
#include "plain.h"
#include "base/fd.h"
#include "base/path.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const places[] = {"workspace", "root", "tmp"};

static int
let_pass(const struct node *n, int dir, struct err *err)
{
	if (!n->isolation.own_uids)
		return 0;
	return fchmod(dir, 0711) < 0 ? err_sys(err, errno, "let the session pass a directory") : 0;
}

static int
give(const struct node *n, const struct workspace *w, int dir, const char *name, struct err *err)
{
	const unsigned uid = node_session_uid(n, w->slot);

	if (n->isolation.own_uids && fchownat(dir, name, uid, uid, AT_SYMLINK_NOFOLLOW) < 0)
		return err_sys(err, errno, "give %s to the session", name);
	return 0;
}

static int
open_fs(const struct node *n, const struct workspace *w, struct err *err)
{
	char name[24];

	snprintf(name, sizeof name, "upper.%u", w->upper);
	auto_close int upper = path_open_dir(w->session_dir, name, 0700, err);
	auto_close int above = openat(w->session_dir, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (upper < 0 || let_pass(n, upper, err) < 0 || let_pass(n, w->session_dir, err) < 0 ||
	    let_pass(n, n->state, err) < 0 || (above >= 0 && let_pass(n, above, err) < 0))
		return -1;
	const bool fresh = !path_exists(upper, "fs");
	auto_close int fs = path_open_dir(upper, "fs", 0700, err);
	if (fs < 0 || (fresh && give(n, w, upper, "fs", err) < 0))
		return -1;
	for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
		if (mkdirat(fs, places[i], 0700) < 0) {
			if (errno != EEXIST)
				return err_sys(err, errno, "make %s", places[i]);
		} else if (give(n, w, fs, places[i], err) < 0) {
			return -1;
		}
	}
	return fd_steal(&fs);
}

int
plain_workspace(struct node *n, const struct workspace *w, int spill, int fds[KEEPER_FDS],
		struct err *err)
{
	static const enum keeper_fd ours[] = {
	    KEEPER_ROOTFS,      KEEPER_RUN,       KEEPER_INIT,         KEEPER_SECCOMP,
	    KEEPER_SFTP_SERVER, KEEPER_SFTP_LIBC, KEEPER_SFTP_PRELOAD, KEEPER_SFTP_LOADER};
	static const enum keeper_fd none[] = {
	    KEEPER_USR,	 KEEPER_USERNS,	     KEEPER_CGROUP,	   KEEPER_FREEZE,
	    KEEPER_KILL, KEEPER_EVENTS,	     KEEPER_JOIN_MEMORY,   KEEPER_JOIN_PIDS,
	    KEEPER_JOIN_CPU, KEEPER_MEMORY_EVENTS, KEEPER_PIDS_EVENTS,   KEEPER_NETNS,
	    KEEPER_SYS,	 KEEPER_RESOLV};
	const int seccomp = node_seccomp(n, w->network && w->network->kind == NETWORK_HOST, false, err);
	bool ok = seccomp >= 0;

	for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
		fds[none[i]] = open("/dev/null", O_RDWR | O_CLOEXEC);
		ok = ok && fds[none[i]] >= 0;
	}
	for (int i = KEEPER_MOUNTS; i <= KEEPER_MOUNTS_LAST; i++) {
		fds[i] = open("/dev/null", O_RDWR | O_CLOEXEC);
		ok = ok && fds[i] >= 0;
	}
	if (!ok && seccomp >= 0)
		err_sys(err, errno, "open /dev/null");
	fds[KEEPER_ROOTFS] = ok ? open_fs(n, w, err) : -1;
	ok = ok && fds[KEEPER_ROOTFS] >= 0 && (fds[KEEPER_RUN] = fd_dup(spill, err)) >= 0 &&
	     (fds[KEEPER_INIT] = fd_dup(n->init_exe, err)) >= 0 &&
	     (fds[KEEPER_SECCOMP] = fd_dup(seccomp, err)) >= 0 && prepare_sftp(n, fds, err) == 0;
	if (ok)
		return 0;
	for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
		fd_close(&fds[ours[i]]);
	for (size_t i = 0; i < sizeof none / sizeof *none; i++)
		fd_close(&fds[none[i]]);
	for (int i = KEEPER_MOUNTS; i <= KEEPER_MOUNTS_LAST; i++)
		fd_close(&fds[i]);
	return -1;
}

int
plain_path(int rootfs, const char *name, char out[PLAIN_PATH_BYTES], struct err *err)
{
	char link[48], path[4096];

	snprintf(link, sizeof link, "/proc/self/fd/%d", rootfs);
	const ssize_t n = readlink(link, path, sizeof path - 1);
	if (n < 0)
		return err_sys(err, errno, "read the path of a workspace");
	path[n] = '\0';
	if (snprintf(out, PLAIN_PATH_BYTES, "%s/%s", path, name) < PLAIN_PATH_BYTES)
		return 0;
	err_set(err, ERR_CONFIG, "the path of the workspace is too long");
	return err_hint(err, "choose a shorter state directory");
}
