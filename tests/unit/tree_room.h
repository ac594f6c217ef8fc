/* For tests of the snapshot library: a room of its own under /tmp with a store, a cache, an upper
 * and a mount namespace; trees with everything a workspace can hold; and a comparison of two trees
 * that shares no code with what is tested. */
#ifndef BERTH_TREE_ROOM_H
#define BERTH_TREE_ROOM_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "base/err.h"
#include "base/fd.h"
#include "base/path.h"
#include "layer.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#define UNUSED __attribute__((unused))

struct room {
	char path[64];
	int dir, store, cache, upper, scratch;
};

static struct room room;

static UNUSED void
must(int result, const struct err *err)
{
	char line[1024];
	if (result >= 0)
		return;
	err_line(err, line, sizeof line);
	fail_msg("%s", line);
}

#define ok(call) assert_return_code((call), errno)

static UNUSED int
room_dir(const char *name)
{
	struct err err;
	const int fd = path_open_dir(room.dir, name, 0755, &err);
	must(fd, &err);
	return fd;
}

/* cmocka setup and teardown of one test. */
static UNUSED int
room_open(void **state)
{
	(void)state;
	umask(022);
	snprintf(room.path, sizeof room.path, "/tmp/berth-test.XXXXXX");
	assert_non_null(mkdtemp(room.path));
	room.dir = open(room.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ok(room.dir);
	room.store = room_dir("store");
	room.cache = room_dir("cache");
	room.upper = room_dir("upper");
	room.scratch = room_dir("scratch");
	return 0;
}

static UNUSED int
room_close(void **state)
{
	(void)state;
	close(room.dir);
	close(room.store);
	close(room.cache);
	close(room.upper);
	close(room.scratch);
	const pid_t pid = fork(); /* by a program that is not under test */
	if (pid == 0) {
		execlp("rm", "rm", "-rf", "--one-file-system", room.path, (char *)NULL);
		_exit(127);
	}
	int status = -1;
	waitpid(pid, &status, 0);
	return status;
}

/* Mounts of this process are its own from here on; they end with it. */
static UNUSED int
room_namespace(void **state)
{
	(void)state;
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
		print_message("no mount namespace: this test needs CAP_SYS_ADMIN\n");
		return -1;
	}
	return 0;
}

static UNUSED struct layer_options
room_options(unsigned threads)
{
	return (struct layer_options){
	    .store = room.store, .cache = room.cache, .level = 1, .threads = threads};
}

/* ---- making things ---- */

static UNUSED void
put_file(int dir, const char *name, const void *bytes, size_t n)
{
	const int fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	ok(fd);
	assert_int_equal(write(fd, bytes, n), n);
	close(fd);
}

static UNUSED void
put_text(int dir, const char *name, const char *text)
{
	put_file(dir, name, text, strlen(text));
}

static UNUSED void
put_time(int dir, const char *name, int64_t s, long ns)
{
	const struct timespec times[2] = {{s, ns}, {s, ns}};
	ok(utimensat(dir, name, times, AT_SYMLINK_NOFOLLOW));
}

static UNUSED void
put_attr_at(int dir, const char *name, const char *attr, const void *value, size_t n)
{
	const int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	ok(fd);
	ok(fsetxattr(fd, attr, value, n, 0));
	close(fd);
}

/* Everything a workspace can hold. */
static UNUSED void
put_rich_tree(int dir)
{
	static const unsigned char capability[20] = {1, 0, 0, 2, 0, 0x20}; /* net_raw, effective */
	static const unsigned char acl[] = {2,   0,   0,   0,   1,   0,   7,  0,   255, 255, 255,
					    255, 2,   0,   7,   0,   232, 3,  0,   0,   4,   0,
					    5,   0,   255, 255, 255, 255, 16, 0,   7,   0,   255,
					    255, 255, 255, 32,  0,   5,   0,  255, 255, 255, 255};
	char name[300];

	ok(mkdirat(dir, "d", 0750));
	put_text(dir, "d/plain", "some text\n");
	put_time(dir, "d/plain", 1234567890, 123456789);
	put_text(dir, "d/old", "before 1970");
	put_time(dir, "d/old", -86400, 0);
	put_text(dir, "d/empty", "");
	put_text(dir, "d/run-me", "#!/bin/sh\n");
	ok(fchownat(dir, "d/run-me", 1000, 65534, 0));
	ok(fchmodat(dir, "d/run-me", 06755, 0));
	put_text(dir, "d/cap", "x");
	put_attr_at(dir, "d/cap", "security.capability", capability, sizeof capability);
	put_attr_at(dir, "d/cap", "user.\xc3\xa4=b%c", "a\0\nb", 4);
	put_attr_at(dir, "d/cap", "user.zero", "", 0);
	put_attr_at(dir, "d/cap", "user.overlay.overlay.opaque", "y", 1); /* a session's own */
	put_text(dir, "d/acl", "x");
	put_attr_at(dir, "d/acl", "system.posix_acl_access", acl, sizeof acl);
	ok(mkdirat(dir, "d/inherits", 02775));
	put_attr_at(dir, "d/inherits", "system.posix_acl_default", acl, sizeof acl);
	put_text(dir, "d/inherits/child", "x");
	ok(symlinkat("../nowhere \xff", dir, "d/link"));
	put_time(dir, "d/link", 5, 6);
	ok(fchownat(dir, "d/link", 7, 8, AT_SYMLINK_NOFOLLOW));
	ok(mknodat(dir, "d/fifo", S_IFIFO | 0622, 0));
	ok(mkdirat(dir, "links", 01777));
	put_text(dir, "links/one", "shared");
	ok(linkat(dir, "links/one", dir, "d/two", 0));
	ok(linkat(dir, "links/one", dir, "links/three", 0));
	ok(linkat(dir, "d/link", dir, "links/link", 0));
	put_text(dir, "new\nline", "x");
	put_text(dir, "not utf-8 \xff\xfe", "x");
	put_text(dir, "utf-8 \xc3\xa4", "x");
	put_text(dir, ".wh.really", "a file of that name");
	ok(mkdirat(dir, ".wh..wh..opq", 0755));
	put_text(dir, ".wh..wh..opq/.wh.", "x");
	memset(name, 'n', sizeof name);
	memcpy(name, "\xff\xc3\xa4", 3);
	name[255] = '\0';
	put_text(dir, name, "a name of 255 bytes");
	memset(name, 'u', 255);
	memcpy(name, "\xc3\xa4", 2);
	put_text(dir, name, "and in UTF-8");
	ok(symlinkat(name, dir, "long link"));

	int fd = openat(dir, "sparse", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	ok(fd);
	ok(ftruncate(fd, (off_t)100 << 30));
	assert_int_equal(pwrite(fd, "begin", 5, 4096), 5);
	assert_int_equal(pwrite(fd, "middle", 6, (off_t)50 << 30), 6);
	close(fd);
	fd = openat(dir, "holes", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	ok(fd);
	ok(ftruncate(fd, 1 << 20));
	close(fd);
	char *large = malloc(5 << 20);
	assert_non_null(large);
	for (size_t i = 0; i < 5 << 20; i++)
		large[i] = (char)(i * i >> 7);
	put_file(dir, "large", large, 5 << 20);
	free(large);
	ok(mknodat(dir, "d/deleted", S_IFCHR, makedev(0, 0)));
	ok(mkdirat(dir, "opaque", 0700));
	put_attr_at(dir, "opaque", "user.overlay.opaque", "y", 1);
	put_text(dir, "opaque/in", "x");
	put_time(dir, "d/inherits", 11, 12);
	put_time(dir, "d", 1, 999999999);
	put_time(dir, "opaque", 2000000000, 1);
}

/* A path longer than PATH_MAX, and deeper than a process may have files open. */
static UNUSED void
put_deep_tree(int dir, int levels)
{
	char name[32];
	int at = fcntl(dir, F_DUPFD_CLOEXEC, 3);

	for (int i = 0; i < levels; i++) {
		snprintf(name, sizeof name, "level-%d", i);
		ok(mkdirat(at, name, 0755));
		const int next = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		ok(next);
		close(at);
		at = next;
	}
	put_text(at, "bottom", "x");
	close(at);
}

/* ---- comparing ---- */

static char difference[1024];

static int
differ(const char *path, const char *what)
{
	snprintf(difference, sizeof difference, "%s: %s", path, what);
	return 1;
}

static int
by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static size_t
list_names(int dir, char ***out)
{
	DIR *d = fdopendir(openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	size_t n = 0;
	const struct dirent *e;

	assert_non_null(d);
	*out = NULL;
	while ((e = readdir(d)) != NULL) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		*out = realloc(*out, (n + 1) * sizeof **out);
		(*out)[n++] = strdup(e->d_name);
	}
	closedir(d);
	if (n)
		qsort(*out, n, sizeof **out, by_text);
	return n;
}

static int
differ_attrs(int a, int b, const char *path, bool marks)
{
	char list[2][4096], va[8192], vb[8192];
	ssize_t n[2] = {flistxattr(a, list[0], sizeof list[0]),
			flistxattr(b, list[1], sizeof list[1])};

	for (int side = 0; side < 2; side++)
		for (const char *name = list[side]; name < list[side] + n[side];
		     name += strlen(name) + 1) {
			if (strcmp(name, "user.overlay.origin") == 0 ||
			    strcmp(name, "user.overlay.impure") == 0 ||
			    (!marks && strcmp(name, "user.overlay.opaque") == 0))
				continue;
			const ssize_t na = fgetxattr(a, name, va, sizeof va);
			const ssize_t nb = fgetxattr(b, name, vb, sizeof vb);
			if (na < 0 || na != nb || memcmp(va, vb, (size_t)na) != 0)
				return differ(path, name);
		}
	return 0;
}

static int
differ_data(int a, int b, off_t size, const char *path)
{
	static char ba[65536], bb[65536];
	off_t at = 0;

	while (at < size) {
		const off_t da = lseek(a, at, SEEK_DATA), db = lseek(b, at, SEEK_DATA);
		if (da != db && (da < 0 || db < 0 || da / 65536 != db / 65536))
			return differ(path, "holes");
		if (da < 0)
			break;
		at = da < db ? da : db;
		const ssize_t na = pread(a, ba, sizeof ba, at), nb = pread(b, bb, sizeof bb, at);
		if (na != nb || memcmp(ba, bb, (size_t)na) != 0)
			return differ(path, "data");
		at += na;
	}
	return 0;
}

static int differ_dirs(int a, int b, const char *path, bool marks);

static int
differ_entry(int a, int b, const char *name, const char *path, bool marks)
{
	struct stat sa, sb;
	char la[4096], lb[4096];

	if (fstatat(a, name, &sa, AT_SYMLINK_NOFOLLOW) < 0)
		return differ(path, "is not to be seen on the left");
	if (fstatat(b, name, &sb, AT_SYMLINK_NOFOLLOW) < 0)
		return differ(path, "is not to be seen on the right");
	if (S_ISCHR(sa.st_mode) && S_ISCHR(sb.st_mode))
		return sa.st_rdev == sb.st_rdev ? 0 : differ(path, "device");
	if (sa.st_mode != sb.st_mode)
		return differ(path, "mode");
	if (sa.st_uid != sb.st_uid || sa.st_gid != sb.st_gid)
		return differ(path, "owner");
	if (sa.st_mtim.tv_sec != sb.st_mtim.tv_sec || sa.st_mtim.tv_nsec != sb.st_mtim.tv_nsec)
		return differ(path, "mtime");
	if (S_ISLNK(sa.st_mode)) {
		const ssize_t na = readlinkat(a, name, la, sizeof la),
			      nb = readlinkat(b, name, lb, sizeof lb);
		return na != nb || memcmp(la, lb, (size_t)na) ? differ(path, "target") : 0;
	}
	if (!S_ISDIR(sa.st_mode) && (sa.st_nlink != sb.st_nlink || sa.st_size != sb.st_size))
		return differ(path, "links or size");
	const int fa = openat(a, name, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	const int fb = openat(b, name, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	ok(fa);
	ok(fb);
	int result = differ_attrs(fa, fb, path, marks);
	if (!result && S_ISREG(sa.st_mode))
		result = differ_data(fa, fb, sa.st_size, path);
	if (!result && S_ISDIR(sa.st_mode))
		result = differ_dirs(fa, fb, path, marks);
	close(fa);
	close(fb);
	return result;
}

static int
differ_dirs(int a, int b, const char *path, bool marks)
{
	char **na, **nb;
	const size_t n = list_names(a, &na), m = list_names(b, &nb);
	int result = 0;

	for (size_t i = 0; i < n || i < m; i++) {
		char inner[512];
		snprintf(inner, sizeof inner, "%.400s/%.100s", path, i < n ? na[i] : nb[i]);
		if (result)
			;
		else if (i >= n || i >= m || strcmp(na[i], nb[i]) != 0)
			result = differ(inner, i < m ? nb[i] : "is only on the left");
		else
			result = differ_entry(a, b, na[i], inner, marks);
		if (i < n)
			free(na[i]);
		if (i < m)
			free(nb[i]);
	}
	free(na);
	free(nb);
	return result;
}

/* marks: the overlay's opaque mark counts too (on disk, not through a mount). */
static UNUSED void
assert_same_tree(int a, int b, bool marks)
{
	if (differ_entry(a, b, ".", "", marks))
		fail_msg("%s", difference);
}

/* ---- the library ---- */

static UNUSED int
open_layer(const struct digest *d)
{
	char name[100];
	snprintf(name, sizeof name, "layers/%s", digest_text(d).text);
	const int fd = openat(room.cache, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ok(fd);
	return fd;
}

static UNUSED size_t
count_names(int dir)
{
	char **names;
	const size_t n = list_names(dir, &names);
	for (size_t i = 0; i < n; i++)
		free(names[i]);
	free(names);
	return n;
}

static UNUSED void
assert_no_temp(int dir)
{
	char **names;
	const size_t n = list_names(dir, &names);
	for (size_t i = 0; i < n; i++) {
		struct stat st;
		if (strncmp(names[i], ".tmp", 4) == 0)
			fail_msg("%s was left behind", names[i]);
		ok(fstatat(dir, names[i], &st, AT_SYMLINK_NOFOLLOW));
		if (S_ISDIR(st.st_mode) && strlen(names[i]) < 64) {
			const int inner = openat(dir, names[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
			assert_no_temp(inner);
			close(inner);
		}
		free(names[i]);
	}
	free(names);
}

static UNUSED void
unpack(const struct digest *digest, const struct digest *diff_id)
{
	const struct layer_options o = room_options(2);
	struct layer_counts n;
	struct err err;
	must(unpack_layer(&o, digest, diff_id, &n, &err), &err);
}

#endif
