/* Builds a workspace in a process of its own, which takes on the identity that the overlay needs
 * and ends; the fds come back over a socket.
 *
 * Invariants
 *  1. the manager itself mounts nothing for a session and changes no identity;
 *  2. what was made is an fd of the keeper's or it is gone: a failure leaves no mount, no process,
 * no cgroup, only an empty upper;
 *  3. no byte that a session wrote is read: its directories are opened, made and mounted. */
#include "prepare.h"
#include "base/fd.h"
#include "base/path.h"
#include "base/time.h"
#include "attach.h"
#include "cgroup.h"
#include "mounts.h"
#include "plain.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define BUILD_MAX_NS (10 * NS_PER_S)

/* What the building process sends back, in this order. */
enum built {
	BUILT_ROOTFS,
	BUILT_USERNS,
	BUILT_USR,
	BUILT_RUN,
	BUILT_NETNS,
	BUILT_SYS,
	BUILT_RESOLV,
	BUILT_MOUNTS,
	BUILT = BUILT_MOUNTS + KEEPER_MOUNTS_MAX
};

struct build {
	struct node *node;
	const struct workspace *w;
	int spill;
	int fds[BUILT]; /* owned */
};

/* ---- in the building process ---- */

/* The upper's own top directory, which overlayfs shows as "/": as the topmost lower's, or else the
 * image's, so that what a session set there outlives its pause. It gets its name when it is as it
 * should be. */
static int
make_fs(int upper, const struct workspace *w, struct err *err)
{
	struct stat st = {.st_mode = 0755};
	const int top = w->n_lowers ? w->lowers[0] : w->n_images ? w->images[0] : -1;

	if (top >= 0 && fstat(top, &st) < 0)
		return err_sys(err, errno, "look at the topmost layer");
	if (path_remove_tree(upper, ".fs", err) < 0)
		return -1;
	if (mkdirat(upper, ".fs", 0700) < 0)
		return err_sys(err, errno, "make upper.%u/fs", w->upper);
	const struct timespec times[2] = {st.st_mtim, st.st_mtim};
	if (fchownat(upper, ".fs", st.st_uid, st.st_gid, AT_SYMLINK_NOFOLLOW) < 0 ||
	    fchmodat(upper, ".fs", st.st_mode & 07777, 0) < 0 ||
	    (top >= 0 && utimensat(upper, ".fs", times, AT_SYMLINK_NOFOLLOW) < 0) ||
	    renameat(upper, ".fs", upper, "fs") < 0)
		return err_sys(err, errno, "set up upper.%u/fs", w->upper);
	return 0;
}

/* upper.N, which holds fs and work. Their modes are set when they are made, never again: fs is the
 * session's root directory, and its mode the session's business. */
static int
open_upper(const struct workspace *w, struct err *err)
{
	char name[24];
	snprintf(name, sizeof name, "upper.%u", w->upper);

	/* a mount's own fd names it and reads nothing */
	auto_close int upper = w->volume ? path_open(*w->volume, ".", O_RDONLY | O_DIRECTORY, err)
					 : path_open_dir(w->session_dir, name, 0700, err);
	if (upper < 0)
		return -1;
	if (w->fresh_work && path_remove_tree(upper, "work", err) < 0)
		return err_add(err, "drop the work directory of %s", name);
	if (mkdirat(upper, "work", 0700) < 0 && errno != EEXIST)
		return err_sys(err, errno, "make %s/work", name);
	if (!path_exists(upper, "fs") && make_fs(upper, w, err) < 0)
		return -1;
	return fd_steal(&upper);
}

/* The user namespace that mounts are mapped to. -1: without ids of its own a session's root sees files
 * as they lie there. */
static int
mapping(const struct build *b)
{
	return b->node->isolation.own_uids ? b->fds[BUILT_USERNS] : -1;
}

static int
build_rootfs(const struct build *b, struct err *err)
{
	const struct workspace *w = b->w;
	const int userns = mapping(b);
	int lowers[LOWERS_MAX + PREPARE_IMAGES_MAX]; /* closed by the end of this process */
	bool in_fs[LOWERS_MAX + PREPARE_IMAGES_MAX] = {false};
	const size_t n = w->n_lowers + w->n_images + 1;

	/* before the volumes show other ids than those on disk */
	auto_close int upper = w->view ? -1 : open_upper(w, err);
	if (upper < 0 && !w->view)
		return -1;
	for (size_t i = 0; i < n; i++) {
		in_fs[i] = i < w->n_lowers && w->volumes && w->volumes[i] >= 0;
		if (in_fs[i]) {
			lowers[i] = mounts_set(w->volumes[i], MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV,
					       userns, err);
			if (lowers[i] < 0)
				return err_add(err, "layer %zu", i);
			continue;
		}
		const int dir = i < w->n_lowers ? w->lowers[i]
				: i + 1 < n     ? w->images[i - w->n_lowers]
						: w->image;
		lowers[i] = mounts_clone(dir, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV, userns, err);
		if (lowers[i] < 0)
			return err_add(err, "layer %zu", i);
	}
	if (w->view)
		return mounts_overlay(lowers, in_fs, n, -1, node_session_uid(b->node, w->slot),
				      err);
	auto_close int mapped = w->volume ? mounts_set(*w->volume, MOUNT_ATTR_NODEV, userns, err)
					  : mounts_clone(upper, MOUNT_ATTR_NODEV, userns, err);
	if (mapped < 0)
		return err_add(err, "upper.%u", w->upper);
	return mounts_overlay(lowers, in_fs, n, mapped, node_session_uid(b->node, w->slot), err);
}

/* The node's /usr, with the session's ids where its filesystem can do that; else its files belong
 * to nobody inside, which is readable all the same. */
static int
build_usr(int userns, struct err *err)
{
	const unsigned attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV;

	auto_close int usr = open("/usr", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (usr < 0)
		return err_sys(err, errno, "open /usr");
	const int mapped = userns < 0 ? -1 : mounts_clone(usr, attributes, userns, err);
	return mapped >= 0 ? mapped : mounts_clone(usr, attributes, -1, err);
}

/* A directory of the node, with the session's ids where its filesystem can do that: what the node's
 * root owns is the session root's inside. Else its files belong to nobody there. */
static int
build_mount(const struct build *b, size_t i, struct err *err)
{
	const uint64_t attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV |
				    (b->w->mounts_read_only[i] ? MOUNT_ATTR_RDONLY : 0);

	const int mapped = mounts_clone(b->w->mounts[i], attributes, mapping(b), err);
	return mapped >= 0 ? mapped : mounts_clone(b->w->mounts[i], attributes, -1, err);
}

static int
build_mounts(struct build *b, int null, struct err *err)
{
	for (size_t i = 0; i < KEEPER_MOUNTS_MAX; i++) {
		int *fd = &b->fds[BUILT_MOUNTS + i];
		*fd = i < b->w->n_mounts ? build_mount(b, i, err) : null;
		if (*fd < 0)
			return err_add(err, "mount %zu", i);
	}
	return 0;
}

static int
build_network(struct build *b, int null, struct err *err)
{
	struct attached made = {-1, -1, -1};

	if (b->w->network &&
	    attach_network(b->w->network, b->w->slot, b->fds[BUILT_USERNS], &made, err) < 0)
		return -1;
	b->fds[BUILT_NETNS] = made.netns < 0 ? null : made.netns;
	b->fds[BUILT_SYS] = made.sys < 0 ? null : made.sys;
	b->fds[BUILT_RESOLV] = made.resolv < 0 ? null : made.resolv;
	return 0;
}

static int
build_all(struct build *b, struct err *err)
{
	b->fds[BUILT_USERNS] =
	    mounts_userns(node_session_uid(b->node, b->w->slot), b->node->isolation.ids, err);
	if (b->fds[BUILT_USERNS] < 0)
		return -1;
	/* What is copied from our mount namespace comes before the overlay, which leaves it. */
	const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null < 0)
		return err_sys(err, errno, "open /dev/null");
	b->fds[BUILT_USR] = b->w->image_host ? build_usr(mapping(b), err) : null;
	if (b->fds[BUILT_USR] < 0)
		return err_add(err, "/usr");
	b->fds[BUILT_RUN] = b->spill < 0 ? null
					 : mounts_clone(b->spill,
							MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID |
							    MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC,
							-1, err);
	if (b->fds[BUILT_RUN] < 0)
		return err_add(err, "the spilled output");
	if (build_mounts(b, null, err) < 0 || build_network(b, null, err) < 0)
		return -1;
	b->fds[BUILT_ROOTFS] = build_rootfs(b, err);
	return b->fds[BUILT_ROOTFS] < 0 ? -1 : 0;
}

union fd_room {
	char bytes[CMSG_SPACE(BUILT * sizeof(int))];
	struct cmsghdr aligned;
};

/* One packet: a struct err whose code says whether there are fds beside it. Both ends are the same
 * program, so its bytes are its meaning. */
static _Noreturn void
send_built(int socket, const struct build *b, struct err *why)
{
	union fd_room room = {{0}};
	struct iovec part = {why, sizeof *why};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};

	if (why->code == ERR_NONE) {
		message.msg_control = room.bytes;
		message.msg_controllen = sizeof room.bytes;
		struct cmsghdr *head = CMSG_FIRSTHDR(&message);
		*head = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof b->fds),
					 .cmsg_level = SOL_SOCKET,
					 .cmsg_type = SCM_RIGHTS};
		memcpy(CMSG_DATA(head), b->fds, sizeof b->fds);
	}
	_exit(sendmsg(socket, &message, MSG_NOSIGNAL) < 0);
}

static _Noreturn void
build_and_send(struct build *b, int socket)
{
	struct err why = {.code = ERR_NONE};

	if (build_all(b, &why) == 0)
		why = (struct err){.code =
				       ERR_NONE}; /* a first try may have failed and been mended */
	send_built(socket, b, &why);
}

/* ---- in the manager ---- */

static int
receive_built(int socket, struct build *b, struct err *err)
{
	union fd_room room;
	struct err report;
	struct iovec part = {&report, sizeof report};
	struct msghdr message = {.msg_iov = &part,
				 .msg_iovlen = 1,
				 .msg_control = room.bytes,
				 .msg_controllen = sizeof room.bytes};
	const uint64_t deadline_ns = time_now_ns() + BUILD_MAX_NS;
	int n;

	do {
		const uint64_t now_ns = time_now_ns();
		struct pollfd p = {.fd = socket, .events = POLLIN};
		n = now_ns >= deadline_ns
			? 0
			: poll(&p, 1, (int)((deadline_ns - now_ns) / NS_PER_MS + 1));
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return err_sys(err, errno, "wait for the workspace");
	if (n == 0)
		return err_set(err, ERR_TIMEOUT, "the workspace was not mounted within 10 s");
	const ssize_t got = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
	if (got != sizeof report)
		return err_set(err, ERR_INTERNAL, "the process that mounts the workspace has died");
	if (report.code != ERR_NONE) {
		*err = report;
		return -1;
	}
	const struct cmsghdr *head = CMSG_FIRSTHDR(&message);
	if (!head || head->cmsg_type != SCM_RIGHTS || head->cmsg_len != CMSG_LEN(sizeof b->fds))
		return err_set(err, ERR_INTERNAL, "the workspace came without its fds");
	memcpy(b->fds, CMSG_DATA(head), sizeof b->fds);
	return 0;
}

static int
build_run(struct build *b, struct err *err)
{
	int ends[2];
	if (b->w->alone)
		return build_all(b, err);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		return err_sys(err, errno, "make a socket for the workspace");
	auto_close int ours = ends[0], theirs = ends[1];

	const pid_t pid = fork();
	if (pid == 0) {
		/* It holds all that the manager holds, its lock too: it must not outlive it. */
		prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
		build_and_send(b, theirs);
	}
	if (pid < 0)
		return err_sys(err, errno, "start a process that mounts the workspace");
	fd_close(&theirs);
	const int result = receive_built(ours, b, err);
	kill(pid,
	     SIGKILL); /* it has sent all, or is too late; ours to wait for, so still its pid */
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	return result;
}

static int
dup_into(int *slot, int fd, struct err *err)
{
	*slot = fd_dup(fd, err);
	return *slot < 0 ? -1 : 0;
}

static const enum keeper_fd ours_of_keeper[] = {
    KEEPER_ROOTFS,       KEEPER_USR,           KEEPER_USERNS,      KEEPER_INIT,
    KEEPER_SECCOMP,      KEEPER_CGROUP,        KEEPER_FREEZE,      KEEPER_KILL,
    KEEPER_EVENTS,       KEEPER_RUN,           KEEPER_JOIN_MEMORY, KEEPER_JOIN_PIDS,
    KEEPER_JOIN_CPU,     KEEPER_MEMORY_EVENTS, KEEPER_PIDS_EVENTS, KEEPER_NETNS,
    KEEPER_SYS,          KEEPER_RESOLV,        KEEPER_SFTP_SERVER, KEEPER_SFTP_LIBC,
    KEEPER_SFTP_PRELOAD, KEEPER_SFTP_LOADER,
};
enum { OURS_OF_KEEPER = sizeof ours_of_keeper / sizeof *ours_of_keeper };

/* The cgroup's four slots, or four times /dev/null. */
static int
fill_cgroup(struct node *n, const struct workspace *w, int fds[KEEPER_FDS], struct err *err)
{
	struct cgroup_fds c = {-1, -1, -1, -1};

	if (n->cgroup >= 0) {
		if (cgroup_make(n->cgroup, w->id, node_keeper_uid(n, w->slot),
				node_session_uid(n, w->slot), &c, err) < 0)
			return -1;
	} else {
		c.box = open("/dev/null", O_RDWR | O_CLOEXEC);
		if (c.box < 0)
			return err_sys(err, errno, "open /dev/null");
		if (dup_into(&c.freeze, c.box, err) < 0 || dup_into(&c.kill, c.box, err) < 0 ||
		    dup_into(&c.events, c.box, err) < 0) {
			cgroup_close(&c);
			return -1;
		}
	}
	fds[KEEPER_CGROUP] = c.box;
	fds[KEEPER_FREEZE] = c.freeze;
	fds[KEEPER_KILL] = c.kill;
	fds[KEEPER_EVENTS] = c.events;
	return 0;
}

/* The limits' slots: what there is nothing for gets /dev/null. */
static int
fill_governor(struct node *n, const struct workspace *w, int fds[KEEPER_FDS], struct err *err)
{
	static const struct limits none;
	struct governor_fds c;

	if (governor_make(n->governor, w->id, w->limits ? w->limits : &none, &c, err) < 0)
		return -1;
	fds[KEEPER_JOIN_MEMORY] = c.join[GOVERNOR_MEMORY];
	fds[KEEPER_JOIN_PIDS] = c.join[GOVERNOR_PIDS];
	fds[KEEPER_JOIN_CPU] = c.join[GOVERNOR_CPU];
	fds[KEEPER_MEMORY_EVENTS] = c.memory_events;
	fds[KEEPER_PIDS_EVENTS] = c.pids_events;
	for (int i = KEEPER_JOIN_MEMORY; i <= KEEPER_PIDS_EVENTS; i++) {
		if (fds[i] >= 0)
			continue;
		fds[i] = open("/dev/null", O_RDWR | O_CLOEXEC);
		if (fds[i] < 0)
			return err_sys(err, errno, "open /dev/null");
	}
	return 0;
}

int
prepare_sftp(const struct node *n, int fds[KEEPER_FDS], struct err *err)
{
	for (int i = 0; i < NODE_SFTP_FILES; i++) {
		int *fd = &fds[KEEPER_SFTP_SERVER + i];
		if (n->sftp[i] >= 0) {
			if (dup_into(fd, n->sftp[i], err) < 0)
				return -1;
			continue;
		}
		*fd = open("/dev/null", O_RDWR | O_CLOEXEC);
		if (*fd < 0)
			return err_sys(err, errno, "open /dev/null");
	}
	return 0;
}

static int
fill(struct node *n, const struct workspace *w, int spill, int fds[KEEPER_FDS], struct err *err)
{
	struct build build = {.node = n, .w = w, .spill = spill};
	const bool host = w->network && w->network->kind == NETWORK_HOST;
	const int seccomp = node_seccomp(n, host, w->nested, err);

	for (int i = 0; i < BUILT; i++)
		build.fds[i] = -1;
	if (seccomp < 0 || dup_into(&fds[KEEPER_INIT], n->init_exe, err) < 0 ||
	    dup_into(&fds[KEEPER_SECCOMP], seccomp, err) < 0 || prepare_sftp(n, fds, err) < 0 ||
	    build_run(&build, err) < 0)
		return -1;
	fds[KEEPER_ROOTFS] = build.fds[BUILT_ROOTFS];
	fds[KEEPER_USERNS] = build.fds[BUILT_USERNS];
	fds[KEEPER_USR] = build.fds[BUILT_USR];
	fds[KEEPER_RUN] = build.fds[BUILT_RUN];
	memcpy(&fds[KEEPER_MOUNTS], &build.fds[BUILT_MOUNTS], KEEPER_MOUNTS_MAX * sizeof *fds);
	fds[KEEPER_NETNS] = build.fds[BUILT_NETNS];
	fds[KEEPER_SYS] = build.fds[BUILT_SYS];
	fds[KEEPER_RESOLV] = build.fds[BUILT_RESOLV];
	return 0;
}

/* For a process that was made for it (alone). */
static int
prepare_view(struct node *n, const struct workspace *w, int fds[KEEPER_FDS], struct err *err)
{
	struct build b = {.node = n, .w = w, .spill = -1};

	b.fds[BUILT_USERNS] = mounts_userns(node_session_uid(n, w->slot), n->isolation.ids, err);
	if (b.fds[BUILT_USERNS] < 0)
		return -1;
	fds[KEEPER_ROOTFS] = build_rootfs(&b, err);
	return fds[KEEPER_ROOTFS] < 0 ? err_add(err, "stack the snapshot") : 0;
}

int
prepare_workspace(struct node *n, const struct workspace *w, int spill, int fds[KEEPER_FDS],
		  struct err *err)
{
	for (int i = 0; i < OURS_OF_KEEPER; i++)
		fds[ours_of_keeper[i]] = -1;
	for (int i = KEEPER_MOUNTS; i <= KEEPER_MOUNTS_LAST; i++)
		fds[i] = -1;
	if (!node_stacks(n))
		return plain_workspace(n, w, spill, fds, err);
	if (w->n_lowers > LOWERS_MAX)
		return err_set(err, ERR_INTERNAL, "%zu layers are more than one mount takes (%d)",
			       w->n_lowers, LOWERS_MAX);
	if (w->n_images >= PREPARE_IMAGES_MAX)
		return err_set(err, ERR_INTERNAL, "an image of more than %d layers",
			       PREPARE_IMAGES_MAX);
	if (w->view)
		return prepare_view(n, w, fds, err);
	if (w->n_mounts > KEEPER_MOUNTS_MAX)
		return err_set(err, ERR_INTERNAL, "more than %d mounts", KEEPER_MOUNTS_MAX);
	if (w->slot >= node_slots(n->uid_base))
		return err_set(err, ERR_UNAVAILABLE, "no uids are left for slot %u", w->slot);
	/* First the cgroup, while nothing of the session has been touched: a failure of that one is
	 * no reason to clear it. */
	struct err stays;
	if (fill_cgroup(n, w, fds, err) < 0)
		return err_add(err, "prepare %s", w->id);
	if (fill_governor(n, w, fds, err) == 0 && fill(n, w, spill, fds, err) == 0)
		return 0;
	for (int i = 0; i < OURS_OF_KEEPER; i++)
		fd_close(&fds[ours_of_keeper[i]]);
	for (int i = KEEPER_MOUNTS; i <= KEEPER_MOUNTS_LAST; i++)
		fd_close(&fds[i]);
	if (prepare_clear(n, w->id, &stays) < 0)
		return err_add(err, "prepare %s (its cgroup stays)", w->id);
	return err_add(err, "prepare %s", w->id);
}

bool
prepare_is_populated(struct node *n, const char *id)
{
	return n->cgroup >= 0 && cgroup_is_populated(n->cgroup, id);
}

int
prepare_clear(struct node *n, const char *id, struct err *err)
{
	if (n->cgroup >= 0 && cgroup_clear(n->cgroup, id, err) < 0)
		return -1;
	return governor_clear(n->governor, id, err);
}
