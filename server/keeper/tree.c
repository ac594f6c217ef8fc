/* Invariants
 *  1. what a session could have put in its workspace is never followed: mount points are opened
 *     without links (mount_point), and nothing is mounted by a path below the workspace;
 *  2. all that is hidden is hidden before pid 1 gives up the right to mount, and cannot be
 * uncovered: nothing in the sandbox has that right afterwards;
 *  3. a mount of the node is copied read-only or not at all, but for six devices and what an
 *     operator gave (KEEPER_MOUNTS), which comes with its attributes set.
 *
 * Never: allocates (it runs behind a clone), reads a file of the workspace. */
#include "tree.h"
#include "base/fd.h"
#include "base/num.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif

static const char *const devices[TREE_DEVICES] = {"null",   "zero",    "full",
						  "random", "urandom", "tty"};

/* Shown read-only: a change there is a change of the node, or of the kernel. */
static const char *const read_only[] = {
    "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
};

/* Shown empty: they tell of the node, of other sessions' keys, or of its hardware. What belongs to
 * the node's root and is readable by it alone needs no mask: that uid is not mapped. */
static const char *const masked[] = {
    "/proc/acpi",
    "/proc/asound",
    "/proc/cmdline",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/key-users",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/sys/block",
    "/sys/class/block",
    "/sys/class/dmi",
    "/sys/class/powercap",
    "/sys/dev/block",
    "/sys/devices/virtual/block",
    "/sys/devices/virtual/dmi",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/cgroup",
};

/* ---- small parts ---- */

static int
clone_mount(const char *path, unsigned flags)
{
	return open_tree(AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | flags);
}

static int
put_mount(int take_tree, int where)
{
	const int result =
	    move_mount(take_tree, "", where, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
	fd_close(&take_tree);
	return result;
}

static int
remove_name(int dir, const char *name)
{
	return unlinkat(dir, name, 0);
}

/* NAME becomes NAME.berth-1, or the next one that is free. */
static int
move_aside(int dir, const char *name)
{
	char other[256 + 16];
	const size_t n = strlen(name);

	memcpy(other, name, n);
	for (unsigned i = 1; i < 1000; i++) {
		snprintf(other + n, sizeof other - n, ".berth-%u", i);
		if (renameat2(dir, name, dir, other, RENAME_NOREPLACE) == 0)
			return 0;
		if (errno != EEXIST)
			return -1;
	}
	return -1;
}

/* Opens a directory of the workspace, making it when it is absent. A session may have put anything
 * in its place: what is not a directory is cleared away, and no link is ever followed. */
static int
open_place(int dir, const char *name, int (*clear)(int dir, const char *name))
{
	struct open_how how = {
	    .flags = O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC,
	    .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
	};

	for (int try = 0; try < 2; try++) {
		if (mkdirat(dir, name, 0755) < 0 && errno != EEXIST)
			return -1;
		const long fd = syscall(SYS_openat2, dir, name, &how, sizeof how);
		if (fd >= 0)
			return (int)fd;
		if ((errno != ELOOP && errno != ENOTDIR) || clear(dir, name) < 0)
			return -1;
	}
	return -1;
}

/* A place of ours: `name` is relative to the working directory, which is the workspace's root, or
 * to what we mounted there ourselves. */
static int
mount_point(const char *name)
{
	return open_place(AT_FDCWD, name, remove_name);
}

static int
make_mount_point(const char *name)
{
	auto_close int fd = mount_point(name);
	return fd < 0 ? -1 : 0;
}

struct mount_option {
	const char *key, *value;
};

/* Mounts a new filesystem on `where`. */
static int
mount_new(const char *type, const struct mount_option *options, unsigned attributes, int where)
{
	auto_close int fs = fsopen(type, FSOPEN_CLOEXEC);
	if (fs < 0 || fsconfig(fs, FSCONFIG_SET_STRING, "source", type, 0) < 0)
		return -1;
	for (; options && options->key; options++)
		if (fsconfig(fs, FSCONFIG_SET_STRING, options->key, options->value, 0) < 0)
			return -1;
	if (fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		return -1;
	const int tree = fsmount(fs, FSMOUNT_CLOEXEC, attributes);
	return tree < 0 ? -1 : put_mount(tree, where);
}

static int
mount_new_on(struct inside *in, const char *name, const char *type,
	     const struct mount_option *options, unsigned attributes)
{
	in->at = name;
	auto_close int where = mount_point(name);
	return where < 0 ? -1 : mount_new(type, options, attributes, where);
}

/* Puts a read-only copy of a tree of mounts on itself. */
static int
bind_read_only(const char *from, const char *onto)
{
	struct mount_attr attributes = {.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID |
						    MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC};

	auto_close int tree = clone_mount(from, AT_RECURSIVE);
	if (tree < 0 || mount_setattr(tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attributes,
				      sizeof attributes) < 0)
		return -1;
	auto_close int where = open(onto, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	return where < 0 ? -1 : put_mount(fd_steal(&tree), where);
}

/* ---- while the node's tree is still there to copy from ---- */

int
tree_leave_propagation(struct inside *in)
{
	(void)in;
	return mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL);
}

int
tree_take_devices(struct inside *in)
{
	for (int i = 0; i < TREE_DEVICES; i++) {
		in->at = devices[i];
		char path[32] = "/dev/";
		memcpy(path + 5, devices[i], strlen(devices[i]) + 1);
		in->device[i] = clone_mount(path, 0);
		if (in->device[i] < 0)
			return -1;
	}
	return 0;
}

/* A mount can be a root only once it is attached somewhere: on /dev, which every node has, of this
 * mount namespace, which nobody else sees, and from which the devices have been taken. */
int
tree_attach_workspace(struct inside *in)
{
	const int root = in->plan->rootfs;
	if (move_mount(root, "", AT_FDCWD, "/dev", MOVE_MOUNT_F_EMPTY_PATH) < 0)
		return -1;
	return fchdir(root);
}

int
tree_attach_usr(struct inside *in)
{
	if (in->plan->usr < 0)
		return 0;
	auto_close int where = mount_point("usr");
	if (where < 0)
		return -1;
	return move_mount(in->plan->usr, "", where, "",
			  MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

/* Over the workspace's own, if that is a file: what a session put there else is its business. */
int
tree_attach_resolv(struct inside *in)
{
	struct open_how how = {
	    .flags = O_PATH | O_NOFOLLOW | O_CLOEXEC,
	    .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
	};
	struct stat st;

	if (in->plan->resolv < 0)
		return 0;
	in->at = "etc/resolv.conf";
	auto_close int where = (int)syscall(SYS_openat2, AT_FDCWD, in->at, &how, sizeof how);
	if (where < 0 || fstat(where, &st) < 0 || !S_ISREG(st.st_mode))
		return 0;
	return move_mount(in->plan->resolv, "", where, "",
			  MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

int
tree_mount_proc(struct inside *in)
{
	return mount_new_on(in, "proc", "proc", NULL,
			    MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
}

static int
make_link(struct inside *in, const char *target, const char *name)
{
	in->at = name;
	return symlinkat(target, AT_FDCWD, name);
}

static int
make_device(struct inside *in, int i)
{
	char path[32] = "dev/";
	memcpy(path + 4, devices[i], strlen(devices[i]) + 1);
	in->at = devices[i];
	auto_close int file =
	    open(path, O_CREAT | O_EXCL | O_RDONLY | O_NOFOLLOW | O_CLOEXEC, 0666);
	return file < 0 ? -1 : put_mount(in->device[i], file);
}

/* The size option of a tmpfs: the session's, or ours. */
static const char *
tmp_size(const struct inside *in, char text[NUM_TEXT_BYTES])
{
	if (in->plan->tmp_bytes == 0)
		return "64m";
	num_format_size(in->plan->tmp_bytes, text);
	return text;
}

int
tree_mount_dev(struct inside *in)
{
	static const struct mount_option nodes[] = {{"mode", "755"}, {"size", "64k"}, {0}};
	/* group tty, where there is an id of that number inside */
	const struct mount_option ptys[] = {
	    {"ptmxmode", "0666"}, {"mode", "620"}, {in->plan->ids > 5 ? "gid" : NULL, "5"}, {0}};
	char size[NUM_TEXT_BYTES];
	const struct mount_option shm[] = {{"mode", "1777"}, {"size", tmp_size(in, size)}, {0}};
	const unsigned quiet = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC;

	if (mount_new_on(in, "dev", "tmpfs", nodes, quiet | MOUNT_ATTR_NODEV) < 0)
		return -1;
	for (int i = 0; i < TREE_DEVICES; i++)
		if (make_device(in, i) < 0)
			return -1;
	if (mount_new_on(in, "dev/pts", "devpts", ptys, quiet) < 0 ||
	    mount_new_on(in, "dev/shm", "tmpfs", shm, quiet | MOUNT_ATTR_NODEV) < 0)
		return -1;
	/* POSIX message queues: not in every kernel, and nothing of ours needs them */
	if (mount_new_on(in, "dev/mqueue", "mqueue", NULL, quiet | MOUNT_ATTR_NODEV) < 0 &&
	    errno != ENODEV && errno != EPERM)
		return -1;
	if (make_link(in, "pts/ptmx", "dev/ptmx") < 0 ||
	    make_link(in, "/proc/self/fd", "dev/fd") < 0)
		return -1;
	if (make_link(in, "/proc/self/fd/0", "dev/stdin") < 0 ||
	    make_link(in, "/proc/self/fd/1", "dev/stdout") < 0)
		return -1;
	return make_link(in, "/proc/self/fd/2", "dev/stderr");
}

static const struct mount_option empty[] = {{"nr_inodes", "2"}, {"mode", "555"}, {0}};

int
tree_mount_sys(struct inside *in)
{
	if (in->plan->sys < 0 && in->plan->network_host) /* nobody here may mount that one */
		return mount_new_on(in, "sys", "tmpfs", empty,
				    MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV |
					MOUNT_ATTR_NOEXEC);
	if (in->plan->sys < 0)
		return mount_new_on(in, "sys", "sysfs", NULL,
				    MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV |
					MOUNT_ATTR_NOEXEC);
	/* sysfs belongs to a network namespace: one that is not ours to mount was mounted for us */
	in->at = "sys";
	auto_close int where = mount_point("sys");
	if (where < 0)
		return -1;
	return move_mount(in->plan->sys, "", where, "",
			  MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

int
tree_mount_run(struct inside *in)
{
	char size[NUM_TEXT_BYTES];
	const struct mount_option options[] = {{"mode", "755"}, {"size", tmp_size(in, size)}, {0}};

	if (mount_new_on(in, "run", "tmpfs", options, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV) < 0)
		return -1;
	/* where /var/lock leads: services put their locks there and expect it to be */
	in->at = "run/lock";
	if (mkdirat(AT_FDCWD, in->at, 0755) < 0 || fchmodat(AT_FDCWD, in->at, 01777, 0) < 0)
		return -1;
	if (in->plan->run < 0)
		return 0;
	in->at = "run/berth/out";
	if (make_mount_point("run/berth") < 0)
		return -1;
	auto_close int where = mount_point("run/berth/out");
	if (where < 0)
		return -1;
	return move_mount(in->plan->run, "", where, "",
			  MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

int
tree_mount_tmp(struct inside *in)
{
	char size[NUM_TEXT_BYTES];
	const struct mount_option options[] = {{"mode", "1777"}, {"size", tmp_size(in, size)}, {0}};

	if (!(in->plan->walls & KEEPER_TMP_IN_MEMORY))
		return 0;
	return mount_new_on(in, "tmp", "tmpfs", options, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
}

/* The kernel lets a nested namespace mount a new /proc only where a whole one can be seen, and ours
 * has masks. */
int
tree_mount_whole_proc(struct inside *in)
{
	if (!(in->plan->walls & KEEPER_WALL_NESTED))
		return 0;
	if (make_mount_point("run/berth") < 0)
		return -1;
	return mount_new_on(in, "run/berth/proc", "proc", NULL,
			    MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
}

/* The place of a mount that an operator gave, step by step from the root. What a session has put in
 * the way is its own: it is moved aside, never followed and never lost. */
static int
open_way(const char *path)
{
	struct str rest = {path + 1, strlen(path) - 1}, part;
	auto_close int at = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);

	while (at >= 0 && str_cut(&rest, '/', &part)) {
		char name[256];
		struct err ignored;
		if (str_copy(part, name, sizeof name, &ignored) < 0) {
			errno = ENAMETOOLONG;
			return -1;
		}
		const int next = open_place(at, name, move_aside);
		fd_close(&at);
		at = next;
	}
	return fd_steal(&at);
}

int
tree_attach_mounts(struct inside *in)
{
	for (int i = 0; i < KEEPER_MOUNTS_MAX; i++) {
		if (in->plan->mount[i] < 0)
			continue;
		in->at = in->plan->mount_at[i];
		auto_close int where = open_way(in->at);
		if (where < 0 || move_mount(in->plan->mount[i], "", where, "",
					    MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0)
			return -1;
	}
	return 0;
}

int
tree_pivot(struct inside *in)
{
	/* The old root is stacked on the new one by this, and taken off again: no name is needed.
	 */
	(void)in;
	if (syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0)
		return -1;
	return chdir("/");
}

/* ---- what the new tree shows ---- */

int
tree_protect_proc(struct inside *in)
{
	for (size_t i = 0; i < sizeof read_only / sizeof *read_only; i++) {
		in->at = read_only[i];
		if (bind_read_only(in->at, in->at) < 0 && errno != ENOENT)
			return -1;
	}
	return 0;
}

int
tree_seal(struct inside *in)
{
	struct mount_attr attributes = {.attr_set = MOUNT_ATTR_RDONLY};

	if (!(in->plan->walls & KEEPER_READ_ONLY))
		return 0;
	in->at = "/";
	return mount_setattr(AT_FDCWD, in->at, 0, &attributes, sizeof attributes);
}

/* One empty read-only tmpfs serves all masked directories: `first` is where it was mounted. */
static int
mask_directory(int where, const char *path, const char **first)
{
	if (!*first) {
		*first = path;
		return mount_new("tmpfs", empty,
				 MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV |
				     MOUNT_ATTR_NOEXEC,
				 where);
	}
	const int tree = clone_mount(*first, 0);
	return tree < 0 ? -1 : put_mount(tree, where);
}

static int
mask_path(const char *path, const char **first)
{
	struct stat st;

	auto_close int where = open(path, O_PATH | O_CLOEXEC); /* some in /sys/class are links */
	if (where < 0)
		return errno == ENOENT || errno == EACCES ? 0 : -1; /* not there, or not for us */
	if (fstat(where, &st) < 0)
		return -1;
	if (S_ISDIR(st.st_mode))
		return mask_directory(where, path, first);
	const int tree = clone_mount("/dev/null", 0);
	return tree < 0 ? -1 : put_mount(tree, where);
}

int
tree_mask(struct inside *in)
{
	const char *first = NULL;

	for (size_t i = 0; i < sizeof masked / sizeof *masked; i++) {
		in->at = masked[i];
		if (mask_path(in->at, &first) < 0)
			return -1;
	}
	return 0;
}
