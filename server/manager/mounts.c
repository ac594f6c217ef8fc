/* Invariants
 *  1. an overlay whose upper cannot be written is a failure: the kernel mounts one read-only
 * without a word when its work directory cannot be made;
 *  2. the overlay works on the disk with the rights of who mounted it: those are the session root's
 *     ids and the capabilities listed here, which do not pass quotas or reserved blocks;
 *  3. files have the device of the overlay, as on one disk, though its layers lie on several
 *     filesystems (xino): du -x, tar --one-file-system and the like would skip them;
 *  4. layers are attached in a mount namespace of our own before they are stacked: kernels before
 *     6.15 take no detached mount as a layer, and names of a few bytes fit 64 of them in the one
 *     page that mount(2) takes. */
#include "mounts.h"
#include "base/buf.h"
#include "base/fd.h"
#include "confine.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <linux/securebits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/fsuid.h>
#include <sys/mount.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { OPTIONS_MAX_BYTES = 4096 }; /* mount(2) copies one page */

/* ---- user namespaces ---- */

enum { HOLDER_STACK_BYTES = 16 << 10 };

/* The namespace's only process: waits to be killed, and does not outlive who made it. It shares our
 * memory, so that none is copied for it, and writes none of it but its stack. */
static int
hold_userns(void *parent)
{
	if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0 || getppid() != *(pid_t *)parent)
		_exit(1);
	for (;;)
		pause();
}

static int
write_map(pid_t pid, const char *name, unsigned base, unsigned count, struct err *err)
{
	char path[64], lines[96];
	int n;

	snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
	if (base || count == 1)
		n = snprintf(lines, sizeof lines, "0 %u %u\n", base, count);
	else /* our own map has root from another range than the rest: no line may span both */
		n = snprintf(lines, sizeof lines, "0 0 1\n1 1 %u\n", count - 1);

	auto_close int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return err_sys(err, errno, "open %s", name);
	if (fd_write_all(fd, lines, (size_t)n, err) < 0)
		return err_add(err, "map the ids %u to %u (%s)", base, base + count - 1, name);
	return 0;
}

static int
map_and_open(pid_t pid, unsigned base, unsigned count, struct err *err)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/ns/user", pid);

	if (write_map(pid, "uid_map", base, count, err) < 0 ||
	    write_map(pid, "gid_map", base, count, err) < 0)
		return -1;
	const int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return err_sys(err, errno, "open the user namespace");
	return fd;
}

int
mounts_userns(unsigned base, unsigned count, struct err *err)
{
	_Alignas(16) char stack[HOLDER_STACK_BYTES];
	int pidfd = -1;
	pid_t self = getpid();
	const pid_t pid = clone(hold_userns, stack + sizeof stack,
				CLONE_NEWUSER | CLONE_VM | CLONE_PIDFD | SIGCHLD, &self, &pidfd);

	if (pid < 0)
		return err_sys(err, errno, "make a user namespace");
	auto_close int holder = pidfd;
	const int userns = map_and_open(pid, base, count, err);
	siginfo_t ignored;
	pidfd_send_signal(holder, SIGKILL, NULL, 0);
	waitid(P_PIDFD, (id_t)holder, &ignored, WEXITED);
	return userns;
}

/* ---- copies of directories ---- */

static int
set_attributes(int tree, uint64_t attributes, int userns, struct err *err)
{
	struct mount_attr set = {.attr_set = attributes, .propagation = MS_PRIVATE};

	if (userns >= 0) {
		set.attr_set |= MOUNT_ATTR_IDMAP;
		set.userns_fd = (unsigned)userns;
	}
	if (mount_setattr(tree, "", AT_EMPTY_PATH, &set, sizeof set) == 0)
		return 0;
	err_sys(err, errno, "set the attributes of a mount");
	return userns < 0 ? -1
			  : err_hint(err, "the filesystem must support id-mapped mounts: "
					  "ext4, xfs and btrfs do, from Linux 5.19 on");
}

int
mounts_clone(int dir, uint64_t attributes, int userns, struct err *err)
{
	auto_close int tree =
	    open_tree(dir, "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	if (tree < 0)
		return err_sys(err, errno, "copy a mount");
	return set_attributes(tree, attributes, userns, err) < 0 ? -1 : fd_steal(&tree);
}

int
mounts_set(int mount, uint64_t attributes, int userns, struct err *err)
{
	if (set_attributes(mount, attributes, userns, err) < 0)
		return -1;
	return fd_dup(mount, err);
}

/* ---- the overlay ---- */

static int
put(int tree, const char *name, struct err *err)
{
	if (mkdirat(AT_FDCWD, name, 0755) < 0)
		return err_sys(err, errno, "make the place of layer %s", name);
	if (move_mount(tree, "", AT_FDCWD, name, MOVE_MOUNT_F_EMPTY_PATH) < 0)
		return err_sys(err, errno, "place layer %s", name);
	return 0;
}

/* A mount namespace of our own, and in it an empty directory that we stand in. Over /dev, since
 * that exists everywhere and nothing here opens a device. */
static int
enter_stage(struct err *err)
{
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return err_sys(err, errno, "make a private mount namespace");
	if (mount("stage", "/dev", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=755,size=64k") <
	    0)
		return err_sys(err, errno, "mount a stage for the layers");
	umask(022);
	if (chdir("/dev") < 0)
		return err_sys(err, errno, "enter the stage");
	return 0;
}

/* Credentials at the moment of the mount are what the overlay keeps (invariant 2), and its upper is
 * mapped: as uid 0, which is not in that map, its work directory could not be made. */
static int
become_mounter(unsigned root, struct err *err)
{
	static const unsigned long long keep =
	    1ull << CAP_SYS_ADMIN | 1ull << CAP_CHOWN | 1ull << CAP_DAC_OVERRIDE |
	    1ull << CAP_DAC_READ_SEARCH | 1ull << CAP_FOWNER | 1ull << CAP_FSETID |
	    1ull << CAP_MKNOD | 1ull << CAP_SETFCAP;

	if (prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0) < 0)
		return err_sys(err, errno, "keep capabilities over a change of ids");
	setfsgid(root);
	setfsuid(root);
	if ((unsigned)setfsuid(root) != root || (unsigned)setfsgid(root) != root)
		return err_set(err, ERR_INTERNAL, "file accesses cannot be made as uid %u", root);
	return confine_capabilities(keep, err);
}

/* Whether the layers lie on several filesystems: the lowest, the image, is where all but volumes
 * are. */
static bool
is_mixed(const bool *in_fs, size_t n)
{
	struct stat upper, image;
	char name[24];

	for (size_t i = 0; i < n; i++)
		if (in_fs[i])
			return true;
	snprintf(name, sizeof name, "%zu", n - 1);
	return stat("u", &upper) == 0 && stat(name, &image) == 0 && upper.st_dev != image.st_dev;
}

static int
mount_overlay(const bool *in_fs, size_t n, bool writable, struct err *err)
{
	auto_buf options = BUF_MAX(OPTIONS_MAX_BYTES - 1);
	struct statvfs fs;

	buf_text(&options, "lowerdir=");
	for (size_t i = 0; i < n; i++)
		buf_fmt(&options, in_fs[i] ? "%s%zu/fs" : "%s%zu", i ? ":" : "", i);
	if (writable)
		buf_text(&options, ",upperdir=u/fs,workdir=u/work");
	buf_text(&options, ",userxattr,metacopy=off,redirect_dir=nofollow,index=off");
	if (is_mixed(in_fs, n))
		buf_text(&options, ",xino=on"); /* "auto" is off where a filesystem has no uuid */
	if (buf_bad(&options))
		return err_set(err, ERR_INTERNAL, "%zu layers are too many for one mount", n);
	const unsigned long flags = writable ? MS_NODEV : MS_NODEV | MS_NOSUID | MS_RDONLY;
	if (mount("berth", "m", "overlay", flags, buf_cstr(&options)) < 0)
		return err_sys(err, errno, "mount an overlay of %zu layers", n);
	if (!writable)
		return 0;
	if (statvfs("m", &fs) < 0)
		return err_sys(err, errno, "look at the overlay");
	if (fs.f_flag & ST_RDONLY)
		return err_set(err, ERR_INTERNAL,
			       "the overlay is read-only: its work directory "
			       "could not be made");
	return 0;
}

int
mounts_overlay(const int *lowers, const bool *in_fs, size_t n, int upper, unsigned root,
	       struct err *err)
{
	if (enter_stage(err) < 0)
		return -1;
	for (size_t i = 0; i < n; i++) {
		char name[24];
		snprintf(name, sizeof name, "%zu", i);
		if (put(lowers[i], name, err) < 0)
			return -1;
	}
	if (upper >= 0 && put(upper, "u", err) < 0)
		return -1;
	if (mkdirat(AT_FDCWD, "m", 0755) < 0)
		return err_sys(err, errno, "make the place of the overlay");
	if (become_mounter(root, err) < 0 || mount_overlay(in_fs, n, upper >= 0, err) < 0)
		return -1;
	const int tree = open_tree(AT_FDCWD, "m", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	if (tree < 0)
		return err_sys(err, errno, "take the overlay out");
	return tree;
}
