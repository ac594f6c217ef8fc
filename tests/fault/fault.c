/* Makes one system call of a process of berth fail, or the process die before it: preloaded into the server
 * (LD_PRELOAD), steered by a test through a file that both have mapped (BERTH_FAULT=path, struct fault_order).
 *
 * Counted are calls that make something last: open for writing, write, truncate, sync, rename, mkdir and the other
 * makers of names, on regular files and directories; and the steps of SQLite. What goes to sockets, pipes and
 * eventfds is not. Nothing is counted until the test has set `armed`. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum op { OP_OPEN = 1, OP_WRITE = 2, OP_SYNC = 4, OP_RENAME = 8, OP_MAKE = 16, OP_STEP = 32 };

/* As test_fault.py packs it: native, without padding between. */
struct fault_order {
	char target[32]; /* name of the executable */
	uint32_t armed, ops, nth;
	int32_t error; /* an errno; 0 none; -1 SIGKILL */
	uint32_t count, hit;
	char what[32], path[256];
};

static struct fault_order *order;
static char self[32];

#define NEXT(name) ((typeof(&name))next(#name))

static void *
next(const char *name)
{
	void *found = dlsym(RTLD_NEXT, name);
	if (!found)
		abort();
	return found;
}

__attribute__((constructor)) static void
begin(void)
{
	const char *path = getenv("BERTH_FAULT");
	char exe[512];
	const ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
	const int fd = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC) : -1;

	if (fd < 0 || n < 0)
		return;
	exe[n] = '\0';
	const char *slash = strrchr(exe, '/');
	snprintf(self, sizeof self, "%.31s", slash ? slash + 1 : exe);
	void *at = mmap(NULL, sizeof *order, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (at != MAP_FAILED)
		order = at;
}

static void
tell(const char *what, int fd, const char *path)
{
	char link[32];

	snprintf(order->what, sizeof order->what, "%s", what);
	if (path) {
		snprintf(order->path, sizeof order->path, "%s", path);
		return;
	}
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	const long n = syscall(SYS_readlinkat, AT_FDCWD, link, order->path, sizeof order->path - 1);
	order->path[n < 0 ? 0 : n] = '\0';
}

/* Whether this call is to fail; errno is set then. */
static bool
fails(enum op op, const char *what, int fd, const char *path)
{
	if (!order || !__atomic_load_n(&order->armed, __ATOMIC_ACQUIRE) || !(order->ops & op) ||
	    strcmp(order->target, self) != 0)
		return false;
	if (__atomic_add_fetch(&order->count, 1, __ATOMIC_ACQ_REL) != order->nth)
		return false;
	tell(what, fd, path);
	__atomic_store_n(&order->hit, 1, __ATOMIC_RELEASE);
	if (order->error < 0)
		kill(getpid(), SIGKILL);
	if (order->error <= 0)
		return false;
	errno = order->error;
	return true;
}

static bool
is_file(int fd)
{
	const int saved = errno;
	struct stat st;
	const bool yes = fstat(fd, &st) == 0 && (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode));
	errno = saved;
	return yes;
}

static bool
makes(int flags)
{
	return (flags & O_ACCMODE) != O_RDONLY || (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE;
}

/* ---- open ---- */

#define OPEN_BODY(name, path_, flags_)                                                                             \
	mode_t mode = 0;                                                                                           \
	if ((flags_) & (O_CREAT | O_TMPFILE)) {                                                                    \
		va_list ap;                                                                                        \
		va_start(ap, flags_);                                                                              \
		mode = va_arg(ap, mode_t);                                                                         \
		va_end(ap);                                                                                        \
	}                                                                                                          \
	if (makes(flags_) && fails(OP_OPEN, #name, -1, path_))                                                     \
		return -1;

int
open(const char *path, int flags, ...)
{
	OPEN_BODY(open, path, flags)
	return NEXT(open)(path, flags, mode);
}

int
open64(const char *path, int flags, ...)
{
	OPEN_BODY(open64, path, flags)
	return NEXT(open64)(path, flags, mode);
}

int
openat(int dir, const char *path, int flags, ...)
{
	OPEN_BODY(openat, path, flags)
	return NEXT(openat)(dir, path, flags, mode);
}

int
openat64(int dir, const char *path, int flags, ...)
{
	OPEN_BODY(openat64, path, flags)
	return NEXT(openat64)(dir, path, flags, mode);
}

long
syscall(long number, ...)
{
	long a[6];
	va_list ap;

	va_start(ap, number);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(ap, long);
	va_end(ap);
	if (number == SYS_openat2) {
		const struct open_how *how = (const struct open_how *)a[2];
		if (makes((int)how->flags) && fails(OP_OPEN, "openat2", -1, (const char *)a[1]))
			return -1;
	}
	static typeof(&syscall) real; /* also called by begin and tell, before anything is mapped */
	if (!real)
		real = NEXT(syscall);
	return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

/* ---- write ---- */

ssize_t
write(int fd, const void *bytes, size_t n)
{
	return order && is_file(fd) && fails(OP_WRITE, "write", fd, NULL) ? -1 : NEXT(write)(fd, bytes, n);
}

ssize_t
writev(int fd, const struct iovec *v, int n)
{
	return order && is_file(fd) && fails(OP_WRITE, "writev", fd, NULL) ? -1 : NEXT(writev)(fd, v, n);
}

ssize_t
pwrite(int fd, const void *bytes, size_t n, off_t at)
{
	return fails(OP_WRITE, "pwrite", fd, NULL) ? -1 : NEXT(pwrite)(fd, bytes, n, at);
}

ssize_t
pwrite64(int fd, const void *bytes, size_t n, off64_t at)
{
	return fails(OP_WRITE, "pwrite64", fd, NULL) ? -1 : NEXT(pwrite64)(fd, bytes, n, at);
}

int
ftruncate(int fd, off_t n)
{
	return is_file(fd) && fails(OP_WRITE, "ftruncate", fd, NULL) ? -1 : NEXT(ftruncate)(fd, n);
}

int
ftruncate64(int fd, off64_t n)
{
	return is_file(fd) && fails(OP_WRITE, "ftruncate64", fd, NULL) ? -1 : NEXT(ftruncate64)(fd, n);
}

ssize_t
copy_file_range(int from, off64_t *from_at, int to, off64_t *to_at, size_t n, unsigned flags)
{
	return fails(OP_WRITE, "copy_file_range", to, NULL) ? -1
							    : NEXT(copy_file_range)(from, from_at, to, to_at, n, flags);
}

/* ---- sync ---- */

int
fsync(int fd)
{
	return fails(OP_SYNC, "fsync", fd, NULL) ? -1 : NEXT(fsync)(fd);
}

int
fdatasync(int fd)
{
	return fails(OP_SYNC, "fdatasync", fd, NULL) ? -1 : NEXT(fdatasync)(fd);
}

int
syncfs(int fd)
{
	return fails(OP_SYNC, "syncfs", fd, NULL) ? -1 : NEXT(syncfs)(fd);
}

/* ---- names ---- */

int
rename(const char *from, const char *to)
{
	return fails(OP_RENAME, "rename", -1, to) ? -1 : NEXT(rename)(from, to);
}

int
renameat(int from_dir, const char *from, int to_dir, const char *to)
{
	return fails(OP_RENAME, "renameat", -1, to) ? -1 : NEXT(renameat)(from_dir, from, to_dir, to);
}

int
renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags)
{
	return fails(OP_RENAME, "renameat2", -1, to) ? -1 : NEXT(renameat2)(from_dir, from, to_dir, to, flags);
}

int
mkdir(const char *path, mode_t mode)
{
	return fails(OP_MAKE, "mkdir", -1, path) ? -1 : NEXT(mkdir)(path, mode);
}

int
mkdirat(int dir, const char *path, mode_t mode)
{
	return fails(OP_MAKE, "mkdirat", -1, path) ? -1 : NEXT(mkdirat)(dir, path, mode);
}

int
linkat(int from_dir, const char *from, int to_dir, const char *to, int flags)
{
	return fails(OP_MAKE, "linkat", -1, to) ? -1 : NEXT(linkat)(from_dir, from, to_dir, to, flags);
}

int
symlinkat(const char *target, int dir, const char *path)
{
	return fails(OP_MAKE, "symlinkat", -1, path) ? -1 : NEXT(symlinkat)(target, dir, path);
}

int
mknodat(int dir, const char *path, mode_t mode, dev_t dev)
{
	return fails(OP_MAKE, "mknodat", -1, path) ? -1 : NEXT(mknodat)(dir, path, mode, dev);
}

int
mkfifoat(int dir, const char *path, mode_t mode)
{
	return fails(OP_MAKE, "mkfifoat", -1, path) ? -1 : NEXT(mkfifoat)(dir, path, mode);
}

/* ---- SQLite: an errno stands for its code ---- */

struct sqlite3_stmt;
int sqlite3_step(struct sqlite3_stmt *st);

int
sqlite3_step(struct sqlite3_stmt *st)
{
	enum { SQLITE_IOERR = 10, SQLITE_FULL = 13, SQLITE_CANTOPEN = 14 };

	if (!fails(OP_STEP, "sqlite3_step", -1, "index.db"))
		return NEXT(sqlite3_step)(st);
	return errno == ENOSPC ? SQLITE_FULL : errno == EMFILE ? SQLITE_CANTOPEN : SQLITE_IOERR;
}
