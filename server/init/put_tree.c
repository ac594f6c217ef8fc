/* Both trees may be hostile: the source is what a session once made, the other is in use by
 * processes that want this one to go astray. It has no right that these have not; beyond that:
 *
 *  1. no link is followed and no mount is entered, in either tree, on the way or at the end: each
 *     name is opened beneath the directory that is held open (openat2);
 *  2. no file that is there is written to: a new one is made beside it, whole, and takes its name.
 *     So another name of that file (a hard link) keeps what it has, and a reader sees the one or
 *     the other;
 *  3. what is there is opened for reading alone, when it was seen to be a file, and never waited
 *     for;
 *  4. what is equal already stays as it is: the same file of a layer below by its number and time
 *     of change, which nobody can set, else by its bytes;
 *  5. memory grows with the number of files of several names in the source, descriptors with the
 *     depth, which has a bound. */
#include "put_entry.h"

#include "base/fd.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int apply(struct put *p, int from, int to, const char *name, unsigned depth,
		 struct err *err);

static int
open_dir(int dir, const char *name)
{
	return put_open(dir, name, O_RDONLY | O_DIRECTORY);
}

/* ---- what is there ---- */

enum there { THERE_NOT, THERE_ENTRY, THERE_MOUNT };

static int
look(const struct put *p, int dir, const char *name, struct stat *out, struct err *err)
{
	auto_close int fd = put_open(dir, name, O_PATH);

	if (fd < 0 && errno == ENOENT)
		return THERE_NOT;
	if (fd < 0 && errno == EXDEV)
		return THERE_MOUNT;
	if (fd < 0 || fstat(fd, out) < 0)
		return put_failed(p, errno, "look at", err);
	return THERE_ENTRY;
}

static DIR *
list(const struct put *p, int dir, struct err *err)
{
	const int fd = put_open(dir, ".", O_RDONLY | O_DIRECTORY);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);

	if (d)
		return d;
	put_failed(p, errno, "list", err);
	if (fd >= 0)
		close(fd);
	return NULL;
}

static bool
is_dots(const char *name)
{
	return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

/* The path grows by a name; it is cut back to what this returned. */
static size_t
enter(struct put *p, const char *name)
{
	const size_t was = p->at_bytes;
	const int n = snprintf(p->at + was, sizeof p->at - was, "%s%s", was ? "/" : "", name);

	p->at_bytes = n < 0 || (size_t)n >= sizeof p->at - was ? sizeof p->at - 1 : was + (size_t)n;
	return was;
}

static void
leave(struct put *p, size_t was)
{
	p->at_bytes = was;
	p->at[was] = '\0';
}

static int remove_below(struct put *p, int dir, int source, unsigned depth, struct err *err);

int
put_remove(struct put *p, int dir, const char *name, unsigned depth, struct err *err)
{
	auto_close int inner = -1;
	struct stat st;
	const int there = look(p, dir, name, &st, err);

	if (there <= THERE_NOT)
		return there;
	put_tick(p);
	if (there == THERE_MOUNT) {
		p->n.skipped++;
		return 0;
	}
	if (S_ISDIR(st.st_mode)) {
		inner = open_dir(dir, name);
		if (inner < 0)
			return put_failed(p, errno, "open", err);
		if (remove_below(p, inner, -1, depth + 1, err) < 0)
			return -1;
	}
	if (unlinkat(dir, name, inner >= 0 ? AT_REMOVEDIR : 0) == 0)
		p->n.removed++;
	else if (errno == EBUSY)
		p->n.skipped++;
	else if (errno != ENOENT && !(inner >= 0 && errno == ENOTEMPTY))
		return put_failed(p, errno, "remove", err);
	return 0;
}

/* All that the source, a directory, has not; -1: all. */
static int
remove_below(struct put *p, int dir, int source, unsigned depth, struct err *err)
{
	const struct dirent *e;
	struct stat ignored;
	int result = 0;

	if (depth > PUT_DEPTH_MAX)
		return err_set(err, ERR_UNAVAILABLE, "/%.200s… is deeper than %d", p->at,
			       PUT_DEPTH_MAX);
	DIR *d = list(p, dir, err);
	if (!d)
		return -1;
	while (result == 0 && (e = readdir(d)) != NULL) {
		if (is_dots(e->d_name) ||
		    (source >= 0 && fstatat(source, e->d_name, &ignored, AT_SYMLINK_NOFOLLOW) == 0))
			continue;
		const size_t was = enter(p, e->d_name);
		result = put_remove(p, dir, e->d_name, depth, err);
		leave(p, was);
	}
	closedir(d);
	return result;
}

/* ---- directories ---- */

static int
apply_below(struct put *p, int from, int to, unsigned depth, struct err *err)
{
	const struct dirent *e;
	int result = 0;
	DIR *d = list(p, from, err);

	if (!d)
		return -1;
	while (result == 0 && (e = readdir(d)) != NULL) {
		if (is_dots(e->d_name))
			continue;
		const size_t was = enter(p, e->d_name);
		result = apply(p, from, to, e->d_name, depth + 1, err);
		leave(p, was);
	}
	closedir(d);
	return result;
}

static int
apply_dir(struct put *p, int from_dir, int dir, const char *name, const struct stat *st,
	  const struct stat *old, unsigned depth, struct err *err)
{
	const bool made = !old || !S_ISDIR(old->st_mode);

	if (depth > PUT_DEPTH_MAX)
		return err_set(err, ERR_UNAVAILABLE, "/%.200s… is deeper than %d", p->at,
			       PUT_DEPTH_MAX);
	if (made && old && put_remove(p, dir, name, depth, err) < 0)
		return -1;
	if (made && mkdirat(dir, name, 0700) < 0)
		return put_failed(p, errno, "make", err);
	auto_close int from = open_dir(from_dir, name);
	auto_close int to = open_dir(dir, name);
	if (from < 0 || to < 0)
		return put_failed(p, errno, "open", err);
	if (!made && remove_below(p, to, from, depth, err) < 0)
		return -1;
	if (apply_below(p, from, to, depth, err) < 0)
		return -1;
	const int differs = made ? 1 : put_xattrs(p, from, to, false, err);
	if (differs < 0)
		return -1;
	if (differs || !put_is_owned(st, old) || !put_is_time(&st->st_mtim, &old->st_mtim))
		p->n.written++;
	else
		p->n.same++;
	struct stat now;
	if (!differs && fstat(to, &now) == 0 && put_is_owned(st, &now) &&
	    put_is_time(&st->st_mtim, &now.st_mtim))
		return 0;
	return put_attributes(p, from, to, st, err);
}

static int
apply(struct put *p, int from, int to, const char *name, unsigned depth, struct err *err)
{
	struct stat st, there;

	put_tick(p);
	if (fstatat(from, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return put_failed(p, errno, "look at the snapshot's", err);
	const int found = look(p, to, name, &there, err);
	if (found < 0)
		return -1;
	const struct stat *old = found == THERE_NOT ? NULL : &there;
	if (found == THERE_MOUNT)
		p->n.skipped++;
	else if (S_ISDIR(st.st_mode))
		return apply_dir(p, from, to, name, &st, old, depth, err);
	else if (S_ISREG(st.st_mode))
		return put_file(p, from, to, name, &st, old, depth, err);
	else if (S_ISLNK(st.st_mode) || S_ISFIFO(st.st_mode))
		return put_special(p, from, to, name, &st, old, depth, err);
	else
		p->n.skipped++;
	return 0;
}

/* ---- the way to it ---- */

/* Goes one directory deeper in the source. */
static int
step_source(const struct put *p, int *dir, const char *name, struct err *err)
{
	const int next = open_dir(*dir, name);

	if (next < 0 && errno == ENOENT)
		return err_set(err, ERR_ABSENT, "the snapshot has no /%.300s", p->at);
	if (next < 0 && (errno == ELOOP || errno == ENOTDIR))
		return err_set(err, ERR_UNAVAILABLE, "/%.300s is no directory in the snapshot",
			       p->at);
	if (next < 0)
		return put_failed(p, errno, "open the snapshot's", err);
	fd_close(dir);
	*dir = next;
	return 0;
}

/* The same in the workspace, where it is made as in the source when it is not there. */
static int
step_target(struct put *p, int *dir, int source, const char *name, struct err *err)
{
	struct stat st;
	int next = open_dir(*dir, name);

	if (next < 0 && errno == ENOENT) {
		if (fstat(source, &st) < 0 || mkdirat(*dir, name, 0700) < 0)
			return put_failed(p, errno, "make", err);
		next = open_dir(*dir, name);
		if (next >= 0 && put_attributes(p, source, next, &st, err) < 0) {
			close(next);
			return -1;
		}
		p->n.written++;
	}
	if (next < 0 && (errno == ELOOP || errno == ENOTDIR))
		return err_set(err, ERR_UNAVAILABLE,
			       "/%.300s is no directory now: a link or a file", p->at);
	if (next < 0 && errno == EXDEV)
		return err_set(err, ERR_UNAVAILABLE,
			       "/%.300s is a mount, of which snapshots hold nothing", p->at);
	if (next < 0)
		return put_failed(p, errno, "open", err);
	fd_close(dir);
	*dir = next;
	return 0;
}

/* The next name of a path. False: it was the last one, or does not fit. */
static bool
next_name(const char **rest, char out[NAME_MAX + 1], bool *last)
{
	const size_t n = strcspn(*rest, "/");

	if (n == 0 || n > NAME_MAX)
		return false;
	memcpy(out, *rest, n);
	out[n] = '\0';
	*last = (*rest)[n] == '\0';
	*rest += n + !*last;
	return !is_dots(out);
}

/* In the source alone, or in both. */
static int
walk(struct put *p, const char *path, int *source, int *target, char leaf[NAME_MAX + 1],
     struct err *err)
{
	bool last = false;

	leave(p, 0);
	for (;;) {
		if (!next_name(&path, leaf, &last))
			return err_set(err, ERR_USAGE, "not a path of a workspace");
		enter(p, leaf);
		if (last)
			return 0;
		if (step_source(p, source, leaf, err) < 0 ||
		    (target && step_target(p, target, *source, leaf, err) < 0))
			return -1;
	}
}

int
put_tree(struct put *p, const char *path, struct err *err)
{
	auto_close int looked = fcntl(p->source, F_DUPFD_CLOEXEC, 3);
	auto_close int from = fcntl(p->source, F_DUPFD_CLOEXEC, 3);
	auto_close int to = fcntl(p->root, F_DUPFD_CLOEXEC, 3);
	char leaf[NAME_MAX + 1];
	struct stat st;

	if (looked < 0 || from < 0 || to < 0)
		return err_sys(err, errno, "open the trees");
	p->room = malloc(PUT_ROOM_BYTES);
	if (!p->room)
		return err_set(err, ERR_UNAVAILABLE, "no memory");
	/* first whether it is there: a wrong path makes no directories */
	if (walk(p, path, &looked, NULL, leaf, err) < 0)
		return -1;
	if (fstatat(looked, leaf, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT
			   ? err_set(err, ERR_ABSENT, "the snapshot has no /%.300s", p->at)
			   : put_failed(p, errno, "look at the snapshot's", err);
	const int found =
	    walk(p, path, &from, &to, leaf, err) < 0 ? -1 : look(p, to, leaf, &st, err);
	if (found < 0)
		return -1;
	if (found == THERE_MOUNT)
		return err_set(err, ERR_UNAVAILABLE,
			       "/%.300s is a mount, of which snapshots hold nothing", p->at);
	return apply(p, from, to, leaf, 0, err);
}
