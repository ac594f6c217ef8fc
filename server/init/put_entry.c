/* One entry of a tree that is put: its attributes, a file, a link, a fifo. The rules stand in
 * put_tree.c. */
#include "put_entry.h"

#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

enum { XATTR_MAX_BYTES = 64 << 10, TEMP_BYTES = 32, TEMP_TRIES = 1000 };

struct put_link {
	ino_t ino;
	dev_t dev;
	char *path; /* owned: of its first name, from the root */
};

int
put_open(int dir, const char *name, uint64_t flags)
{
	struct open_how how = {
	    .flags = flags | O_NOFOLLOW | O_CLOEXEC,
	    .resolve =
		RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV,
	};
	return (int)syscall(SYS_openat2, dir, name, &how, sizeof how);
}

void
put_tick(struct put *p)
{
	if (p->tick)
		p->tick(p->ctx, &p->n);
}

int
put_failed(const struct put *p, int number, const char *what, struct err *err)
{
	return err_sys(err, number, "%s /%.300s", what, p->at);
}

/* ---- attributes ---- */

/* What can be in an archive, and be set inside. */
static bool
is_kept(const char *name)
{
	return strncmp(name, "user.", 5) == 0 || strcmp(name, "security.capability") == 0 ||
	       strcmp(name, "system.posix_acl_access") == 0 ||
	       strcmp(name, "system.posix_acl_default") == 0;
}

/* The names of an open file's attributes, one after another. 0: none, or the filesystem knows
 * none. */
static ssize_t
list_names(const struct put *p, int fd, char *out, struct err *err)
{
	const ssize_t n = flistxattr(fd, out, XATTR_MAX_BYTES);

	if (n < 0 && errno != ENOTSUP)
		return put_failed(p, errno, "list the attributes of", err);
	return n < 0 ? 0 : n;
}

/* Sets what differs. apply false: only tells, by 1, that something does. */
int
put_xattrs(struct put *p, int from, int to, bool set, struct err *err)
{
	char *const names = p->room, *const value = p->room + XATTR_MAX_BYTES;
	auto_free char *other = malloc(XATTR_MAX_BYTES);
	const ssize_t n = other ? list_names(p, from, names, err) : -1;

	if (!other)
		return err_set(err, ERR_UNAVAILABLE, "no memory");
	for (const char *name = names; n > 0 && name < names + n; name += strlen(name) + 1) {
		if (!is_kept(name))
			continue;
		const ssize_t size = fgetxattr(from, name, value, XATTR_MAX_BYTES);
		if (size < 0)
			return put_failed(p, errno, "read an attribute of", err);
		if (fgetxattr(to, name, other, XATTR_MAX_BYTES) == size &&
		    memcmp(value, other, (size_t)size) == 0)
			continue;
		if (!set)
			return 1;
		if (fsetxattr(to, name, value, (size_t)size, 0) < 0)
			return put_failed(p, errno, "set an attribute of", err);
	}
	const ssize_t n_there = n < 0 ? -1 : list_names(p, to, other, err);
	for (const char *name = other; n_there > 0 && name < other + n_there;
	     name += strlen(name) + 1) {
		if (!is_kept(name) || fgetxattr(from, name, value, XATTR_MAX_BYTES) >= 0)
			continue;
		if (!set)
			return 1;
		if (fremovexattr(to, name) < 0)
			return put_failed(p, errno, "remove an attribute of", err);
	}
	return n < 0 || n_there < 0 ? -1 : 0;
}

bool
put_is_time(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

bool
put_is_owned(const struct stat *a, const struct stat *b)
{
	return a->st_uid == b->st_uid && a->st_gid == b->st_gid && a->st_mode == b->st_mode;
}

/* Owner before mode: it takes set-id bits and capabilities away. */
int
put_attributes(struct put *p, int from, int to, const struct stat *st, struct err *err)
{
	const struct timespec times[2] = {st->st_atim, st->st_mtim};
	struct stat old;

	if (fstat(to, &old) < 0)
		return put_failed(p, errno, "look at", err);
	if ((old.st_uid != st->st_uid || old.st_gid != st->st_gid) &&
	    fchown(to, st->st_uid, st->st_gid) < 0)
		return put_failed(p, errno, "set the owner of", err);
	if (put_xattrs(p, from, to, true, err) < 0)
		return -1;
	if (fchmod(to, st->st_mode & 07777) < 0)
		return put_failed(p, errno, "set the mode of", err);
	return futimens(to, times) < 0 ? put_failed(p, errno, "set the time of", err) : 0;
}

/* ---- new entries: made beside, then named ---- */

static void
next_temp(struct put *p, char out[TEMP_BYTES])
{
	snprintf(out, TEMP_BYTES, ".berth-put.%u", p->temps++);
}

/* Takes the name; the temp name goes when it cannot. */
static int
name_it(struct put *p, int dir, const char *temp, const char *name, const struct stat *old,
	unsigned depth, struct err *err)
{
	if (old && S_ISDIR(old->st_mode) && put_remove(p, dir, name, depth, err) < 0) {
		unlinkat(dir, temp, 0);
		return -1;
	}
	if (renameat(dir, temp, dir, name) < 0) {
		const int number = errno;
		unlinkat(dir, temp, 0);
		if (number != EBUSY)
			return put_failed(p, number, "replace", err);
		p->n.skipped++; /* a mount on a file */
		return 0;
	}
	p->n.written++;
	return 0;
}

static int
write_piece(struct put *p, int to, const char *bytes, size_t n, off_t at, struct err *err)
{
	while (n) {
		const ssize_t put = pwrite(to, bytes, n, at);
		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return put_failed(p, errno, "write", err);
		bytes += put;
		n -= (size_t)put;
		at += put;
		p->n.bytes += (uint64_t)put;
	}
	put_tick(p);
	return 0;
}

/* Holes stay holes. */
static int
copy_bytes(struct put *p, int from, int to, off_t size, struct err *err)
{
	off_t at = 0;

	if (ftruncate(to, size) < 0)
		return put_failed(p, errno, "write", err);
	while (at < size) {
		const off_t data = lseek(from, at, SEEK_DATA);
		if (data < 0 && errno == ENXIO)
			return 0; /* a hole up to its end */
		const off_t hole = data < 0 ? -1 : lseek(from, data, SEEK_HOLE);
		const off_t end = hole < 0 ? size : hole;
		for (at = data < 0 ? at : data; at < end;) {
			const ssize_t got = pread(from, p->room, PUT_ROOM_BYTES, at);
			if (got < 0)
				return put_failed(p, errno, "read", err);
			if (got == 0)
				return err_set(err, ERR_CORRUPT, "/%.300s is shorter than it was",
					       p->at);
			if (write_piece(p, to, p->room, (size_t)got, at, err) < 0)
				return -1;
			at += got;
		}
	}
	return 0;
}

static int
make_temp(struct put *p, int dir, char temp[TEMP_BYTES], struct err *err)
{
	for (int i = 0; i < TEMP_TRIES; i++) {
		next_temp(p, temp);
		const int fd =
		    openat(dir, temp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
		if (fd >= 0 || errno != EEXIST)
			return fd >= 0 ? fd : put_failed(p, errno, "make a file beside", err);
	}
	return err_set(err, ERR_UNAVAILABLE, "no free name beside /%.300s", p->at);
}

static int
write_file(struct put *p, int from, int dir, const char *name, const struct stat *st,
	   const struct stat *old, unsigned depth, struct err *err)
{
	char temp[TEMP_BYTES];
	auto_close int to = make_temp(p, dir, temp, err);

	if (to < 0)
		return -1;
	if (copy_bytes(p, from, to, st->st_size, err) < 0 ||
	    put_attributes(p, from, to, st, err) < 0) {
		unlinkat(dir, temp, 0);
		return -1;
	}
	return name_it(p, dir, temp, name, old, depth, err);
}

/* ---- files ---- */

/* The same file of a layer below: nobody inside can set the time of a change. */
static bool
is_one(const struct stat *a, const struct stat *b)
{
	return a->st_ino == b->st_ino && a->st_size == b->st_size && a->st_nlink == b->st_nlink &&
	       put_is_owned(a, b) && put_is_time(&a->st_mtim, &b->st_mtim) &&
	       put_is_time(&a->st_ctim, &b->st_ctim);
}

/* 1 equal, 0 not, -1. */
static int
compare_bytes(struct put *p, int from, int to, struct err *err)
{
	char *const other = p->room + PUT_ROOM_BYTES / 2;

	for (off_t at = 0;;) {
		const ssize_t got = pread(from, p->room, PUT_ROOM_BYTES / 2, at);
		if (got < 0)
			return put_failed(p, errno, "read", err);
		if (got == 0)
			return 1;
		if (pread(to, other, (size_t)got, at) != got ||
		    memcmp(p->room, other, (size_t)got) != 0)
			return 0;
		at += got;
		put_tick(p);
	}
}

/* 1 it is as it should be now, 0 it must be written, -1. Both have one name alone. */
static int
keep_file(struct put *p, int from, int dir, const char *name, const struct stat *st,
	  struct err *err)
{
	struct stat now;
	auto_close int to = put_open(dir, name, O_RDONLY | O_NONBLOCK | O_NOCTTY);

	if (to < 0 || fstat(to, &now) < 0 || !S_ISREG(now.st_mode) || now.st_nlink != 1 ||
	    now.st_size != st->st_size)
		return 0;
	const int equal = compare_bytes(p, from, to, err);
	if (equal <= 0)
		return equal;
	const int differs = put_xattrs(p, from, to, false, err);
	if (differs < 0)
		return -1;
	if (differs == 0 && put_is_owned(st, &now) && put_is_time(&st->st_mtim, &now.st_mtim)) {
		p->n.same++;
		return 1;
	}
	if (put_attributes(p, from, to, st, err) < 0)
		return -1;
	p->n.written++;
	return 1;
}

static const struct put_link *
find_link(const struct put *p, const struct stat *st)
{
	for (size_t i = 0; i < p->n_links; i++)
		if (p->links[i].ino == st->st_ino && p->links[i].dev == st->st_dev)
			return &p->links[i];
	return NULL;
}

/* Without room its further names become files of their own. */
static void
note_link(struct put *p, const struct stat *st)
{
	if (p->at_bytes == sizeof p->at - 1)
		return;
	if (p->n_links == p->links_room) {
		const size_t room = p->links_room ? 2 * p->links_room : 64;
		struct put_link *more = realloc(p->links, room * sizeof *more);
		if (!more)
			return;
		p->links = more;
		p->links_room = room;
	}
	char *path = strdup(p->at);
	if (path)
		p->links[p->n_links++] = (struct put_link){st->st_ino, st->st_dev, path};
}

/* 1 made, 0 its first name is not there as it was. */
static int
make_link(struct put *p, const struct put_link *l, int dir, const char *temp)
{
	const char *slash = strrchr(l->path, '/');
	char parent[PUT_PATH_BYTES] = ".";

	if (slash)
		snprintf(parent, sizeof parent, "%.*s", (int)(slash - l->path), l->path);
	auto_close int at = put_open(p->root, parent, O_PATH | O_DIRECTORY);
	return at >= 0 && linkat(at, slash ? slash + 1 : l->path, dir, temp, 0) == 0;
}

int
put_file(struct put *p, int from_dir, int dir, const char *name, const struct stat *st,
	 const struct stat *old, unsigned depth, struct err *err)
{
	const bool is_file = old && S_ISREG(old->st_mode);
	char temp[TEMP_BYTES];

	const struct put_link *first = st->st_nlink > 1 ? find_link(p, st) : NULL;
	if (is_file && is_one(st, old)) {
		p->n.same++;
		if (st->st_nlink > 1 && !first)
			note_link(p, st);
		return 0;
	}
	next_temp(p, temp);
	if (first && make_link(p, first, dir, temp))
		return name_it(p, dir, temp, name, old, depth, err);
	auto_close int from = put_open(from_dir, name, O_RDONLY | O_NONBLOCK | O_NOCTTY);
	if (from < 0)
		return put_failed(p, errno, "open the snapshot's", err);
	if (is_file && st->st_nlink == 1 && old->st_nlink == 1 && old->st_size == st->st_size) {
		const int kept = keep_file(p, from, dir, name, st, err);
		if (kept != 0)
			return kept < 0 ? -1 : 0;
	}
	if (write_file(p, from, dir, name, st, old, depth, err) < 0)
		return -1;
	if (st->st_nlink > 1 && !first)
		note_link(p, st);
	return 0;
}

/* ---- links and fifos ---- */

static ssize_t
read_link(int dir, const char *name, char out[PUT_PATH_BYTES])
{
	const ssize_t n = readlinkat(dir, name, out, PUT_PATH_BYTES - 1);

	if (n >= 0)
		out[n] = '\0';
	return n;
}

int
put_special(struct put *p, int from_dir, int dir, const char *name, const struct stat *st,
	    const struct stat *old, unsigned depth, struct err *err)
{
	const bool link = S_ISLNK(st->st_mode);
	const struct timespec times[2] = {st->st_atim, st->st_mtim};
	char target[PUT_PATH_BYTES] = "", other[PUT_PATH_BYTES] = "", temp[TEMP_BYTES];

	if (link && read_link(from_dir, name, target) < 0)
		return put_failed(p, errno, "read the link", err);
	const bool equal =
	    old && (old->st_mode & S_IFMT) == (st->st_mode & S_IFMT) &&
	    (!link || (read_link(dir, name, other) >= 0 && strcmp(target, other) == 0));
	if (equal && put_is_owned(st, old) && put_is_time(&st->st_mtim, &old->st_mtim)) {
		p->n.same++;
		return 0;
	}
	next_temp(p, temp);
	if ((link ? symlinkat(target, dir, temp) : mknodat(dir, temp, S_IFIFO | 0600, 0)) < 0)
		return put_failed(p, errno, "make", err);
	if (fchownat(dir, temp, st->st_uid, st->st_gid, AT_SYMLINK_NOFOLLOW) < 0 ||
	    (!link && fchmodat(dir, temp, st->st_mode & 07777, 0) < 0) ||
	    utimensat(dir, temp, times, AT_SYMLINK_NOFOLLOW) < 0) {
		const int number = errno;
		unlinkat(dir, temp, 0);
		return put_failed(p, number, "set the attributes of", err);
	}
	return name_it(p, dir, temp, name, old, depth, err);
}

void
put_done(struct put *p)
{
	for (size_t i = 0; i < p->n_links; i++)
		free(p->links[i].path);
	free(p->links);
	free(p->room);
	p->links = NULL;
	p->room = NULL;
	p->n_links = p->links_room = 0;
}
