#include "path.h"
#include "fd.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The fallback for kernels and filters without openat2: one component at a time. A rename by
 * somebody else between two steps cannot lead out, since each step holds an fd. */
static int
open_by_walk(int dir, const char *name, int flags, mode_t mode)
{
	auto_close int at = -1;
	struct str rest = str_of(name), part;

	if (name[0] == '/') {
		errno = EXDEV;
		return -1;
	}
	while (str_cut(&rest, '/', &part)) {
		char one[256];
		struct err ignored;
		if (str_is(part, "..")) {
			errno = EXDEV;
			return -1;
		}
		if (part.len == 0)
			part = STR_LIT(".");
		if (str_copy(part, one, sizeof one, &ignored) < 0) {
			errno = ENAMETOOLONG;
			return -1;
		}
		const int base = at >= 0 ? at : dir;
		const int how = rest.at ? O_PATH | O_DIRECTORY : flags;
		const int next = openat(base, one, how | O_NOFOLLOW | O_CLOEXEC, mode);
		if (next < 0)
			return -1;
		fd_close(&at);
		at = next;
	}
	return fd_steal(&at);
}

static int
open_beneath(int dir, const char *name, int flags, mode_t mode)
{
	struct open_how how = {
	    .flags = (unsigned)(flags | O_CLOEXEC),
	    .mode = mode,
	    .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
	};

	for (;;) {
		const long fd = syscall(SYS_openat2, dir, name, &how, sizeof how);
		if (fd >= 0)
			return (int)fd;
		if (errno ==
		    EAGAIN) /* a rename raced with the walk: the kernel asks for another try */
			continue;
		if (errno == ENOSYS)
			return open_by_walk(dir, name, flags, mode);
		return -1;
	}
}

int
path_open(int dir, const char *name, int flags, struct err *err)
{
	const int fd = open_beneath(dir, name, flags, 0);
	if (fd < 0) {
		const int saved = errno;
		err_sys(err, saved, "open %s", name);
		errno = saved;
	}
	return fd;
}

int
path_create(int dir, const char *name, mode_t mode, struct err *err)
{
	const int fd = open_beneath(dir, name, O_WRONLY | O_CREAT | O_EXCL, mode);
	if (fd < 0) {
		const int saved = errno;
		err_sys(err, saved, "create %s", name);
		errno = saved;
	}
	return fd;
}

int
path_open_dir(int dir, const char *name, mode_t mode, struct err *err)
{
	if (mkdirat(dir, name, mode) < 0 && errno != EEXIST)
		return err_sys(err, errno, "make directory %s", name);
	return path_open(dir, name, O_RDONLY | O_DIRECTORY, err);
}

void
path_spread(int dir)
{
	int flags; /* of the size that the kernel reads and writes, whatever its name says */

	if (ioctl(dir, FS_IOC_GETFLAGS, &flags) < 0 || (flags & FS_TOPDIR_FL))
		return;
	flags |= FS_TOPDIR_FL;
	(void)!ioctl(dir, FS_IOC_SETFLAGS, &flags);
}

int
path_open_top(const char *path, mode_t mode, struct err *err)
{
	auto_close int at = open(path[0] == '/' ? "/" : ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct str rest = str_of(path), part;

	if (at < 0)
		return err_sys(err, errno, "open %s", path);
	while (str_cut(&rest, '/', &part)) {
		char one[256];
		if (part.len == 0)
			continue;
		if (str_copy(part, one, sizeof one, err) < 0)
			return err_add(err, "open %s", path);
		if (mkdirat(at, one, rest.at && rest.len ? 0755 : mode) < 0 && errno != EEXIST)
			return err_sys(err, errno, "make directory %s", path);
		const int next = openat(at, one, O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (next < 0)
			return err_sys(err, errno, "open %s", path);
		fd_close(&at);
		at = next;
	}
	const int fd = openat(at, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return err_sys(err, errno, "open %s", path);
	return fd;
}

int
path_read(int dir, const char *name, struct buf *out, struct err *err)
{
	auto_close int fd = path_open(dir, name, O_RDONLY | O_NOCTTY, err);
	if (fd < 0)
		return -1;
	if (fd_read_to_end(fd, out, err) < 0) {
		const int saved = errno;
		err_add(err, "read %s", name);
		errno = saved;
		return -1;
	}
	return 0;
}

int
path_sync_dir(int dir, struct err *err)
{
	if (fsync(dir) < 0)
		return err_sys(err, errno, "sync a directory");
	return 0;
}

int
path_replace(int dir, const char *name, mode_t mode, struct str bytes, struct err *err)
{
	uint64_t nonce;
	char tmp[64];

	if (getrandom(&nonce, sizeof nonce, 0) != sizeof nonce)
		return err_sys(err, errno, "get random bytes");
	snprintf(tmp, sizeof tmp, ".tmp.%016llx", (unsigned long long)nonce);

	auto_close int fd = path_create(dir, tmp, mode, err);
	if (fd < 0)
		return err_add(err, "replace %s", name);
	int result = 0;
	if (fchmod(fd, mode) < 0)
		result = err_sys(err, errno, "set the mode of %s", tmp);
	if (result == 0 && fd_write_all(fd, bytes.at, bytes.len, err) < 0)
		result = -1;
	if (result == 0 && fsync(fd) < 0)
		result = err_sys(err, errno, "sync %s", tmp);
	if (result == 0 && renameat(dir, tmp, dir, name) < 0)
		result = err_sys(err, errno, "rename %s", tmp);
	if (result < 0) {
		unlinkat(dir, tmp, 0);
		return err_add(err, "replace %s", name);
	}
	return path_sync_dir(dir, err);
}

static int remove_children(int dir, dev_t device, int depth, struct err *err);

static int
remove_entry(int dir, const char *name, dev_t device, int depth, struct err *err)
{
	struct stat st;

	if (unlinkat(dir, name, 0) == 0 || errno == ENOENT)
		return 0;
	const int why = errno;
	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : err_sys(err, errno, "look at %s", name);
	if (!S_ISDIR(st.st_mode))
		return err_sys(err, why, "remove %s", name);
	if (st.st_dev != device)
		return err_set(err, ERR_INTERNAL, "remove %s: another filesystem is mounted there",
			       name);
	auto_close int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return err_sys(err, errno, "open %s", name);
	if (remove_children(fd, device, depth + 1, err) < 0)
		return -1;
	if (unlinkat(dir, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
		return err_sys(err, errno, "remove %s", name);
	return 0;
}

enum { REMOVE_DEPTH_MAX = 1024 }; /* one fd and one frame a level */

static int
remove_children(int dir, dev_t device, int depth, struct err *err)
{
	if (depth > REMOVE_DEPTH_MAX)
		return err_set(err, ERR_INTERNAL, "remove: deeper than %d directories",
			       REMOVE_DEPTH_MAX);
	const int copy = fcntl(dir, F_DUPFD_CLOEXEC, 3);
	DIR *list = copy < 0 ? NULL : fdopendir(copy);
	if (!list) {
		const int why = errno;
		if (copy >= 0)
			close(copy);
		return err_sys(err, why, "list a directory");
	}
	int result = 0;
	const struct dirent *e;
	while (result == 0 && (e = readdir(list)) != NULL) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		result = remove_entry(dir, e->d_name, device, depth, err);
	}
	closedir(list);
	return result;
}

int
path_remove_tree(int dir, const char *name, struct err *err)
{
	struct stat st;

	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : err_sys(err, errno, "look at %s", name);
	return remove_entry(dir, name, st.st_dev, 0, err);
}

bool
path_exists(int dir, const char *name)
{
	struct stat st;
	return fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

enum { HOLDS_DEPTH_MAX = 256 };

int
path_holds(int top, int below, struct err *err)
{
	struct stat wanted, st, last = {0};
	auto_close int at = fd_dup(below, err);

	if (at < 0)
		return -1;
	if (fstat(top, &wanted) < 0)
		return err_sys(err, errno, "look at a directory");
	for (int i = 0; i < HOLDS_DEPTH_MAX; i++) {
		if (fstat(at, &st) < 0)
			return err_sys(err, errno, "look above a directory");
		if (st.st_dev == wanted.st_dev && st.st_ino == wanted.st_ino)
			return 1;
		if (i && st.st_dev == last.st_dev && st.st_ino == last.st_ino)
			return 0; /* the root is its own parent */
		last = st;
		auto_close int below_it = fd_steal(&at);
		at = openat(below_it, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (at < 0)
			return err_sys(err, errno, "go above a directory");
	}
	return err_set(err, ERR_USAGE, "deeper than %d directories", HOLDS_DEPTH_MAX);
}
