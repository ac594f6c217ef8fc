/* For tests of views: layers of an upper that changes, and a comparison of a view with a directory
 * that goes by the directory's own entries. */
#ifndef BERTH_VIEW_ROOM_H
#define BERTH_VIEW_ROOM_H

#include "tree_room.h"

#include "content.h"
#include "view.h"

enum { ROOM_LAYERS_MAX = 16 };

/* By a program that is not under test. */
static UNUSED void
shell(const char *command)
{
	int status = -1;
	const pid_t pid = fork();

	if (pid == 0) {
		execl("/bin/sh", "sh", "-c", command, (char *)NULL);
		_exit(127);
	}
	ok(waitpid(pid, &status, 0));
	assert_int_equal(status, 0);
}

static struct {
	struct capture *capture;
	struct digest at[ROOM_LAYERS_MAX];
	struct frames_sum sum[ROOM_LAYERS_MAX];
	size_t n;
} layers;

static UNUSED void
layers_begin(void)
{
	const struct layer_options o = room_options(2);
	struct err err;

	layers.n = 0;
	layers.capture = capture_new(&o, room.upper, room.scratch, &err);
	assert_non_null(layers.capture);
}

/* What changed in the upper since the last time, as one more layer. */
static UNUSED void
layers_add(void)
{
	struct layer_counts n;
	struct frames_sum sum;
	struct err err;
	const int any = capture_run(layers.capture, false, &sum, &n, &err);

	must(any, &err);
	if (!any)
		return;
	layers.sum[layers.n] = sum;
	layers.at[layers.n++] = sum.digest;
}

static UNUSED void
layers_end(void)
{
	capture_free(layers.capture);
	layers.capture = NULL;
}

static UNUSED struct view *
view_of(size_t n)
{
	const struct layer_options o = room_options(2);
	struct err err;
	struct view *v = view_new(&o, layers.at, n, &err);

	assert_non_null(v);
	return v;
}

static UNUSED void
assert_same_content(struct view *v, const struct view_entry *e, int fd, off_t size)
{
	static char mine[65536], theirs[65536];
	struct err err;
	auto_of(content) struct content *c = content_open(v, e, &err);
	off_t at = 0;

	must(c ? 0 : -1, &err);
	assert_int_equal(content_bytes(c), size);
	while (at < size) {
		size_t n = 0;
		must(content_read(c, (uint64_t)at, mine, sizeof mine, &n, &err), &err);
		assert_true(n > 0);
		assert_int_equal(pread(fd, theirs, n, at), n);
		assert_memory_equal(mine, theirs, n);
		at += (off_t)n;
		if (size > 1 << 30 && at > 1 << 20 &&
		    at < size - (1 << 20)) { /* not all of a hole */
			const off_t data = lseek(fd, at, SEEK_DATA);
			at = data < 0 || data > size - 4096 ? size - 4096
			     : data > at                    ? data - 5
							    : at;
		}
	}
	size_t more = 1;
	must(content_read(c, (uint64_t)size, mine, 1, &more, &err), &err);
	assert_int_equal(more, 0);
}

static UNUSED void
assert_same_entry(struct view *v, int dir, const char *name, struct str path, const struct stat *st)
{
	struct view_entry e;
	struct err err;
	char target[4096];
	const int got = view_find(v, path, &e, &err);

	must(got, &err);
	if (got != 1)
		fail_msg("not in the view: %.*s", (int)path.len, path.at);
	assert_int_equal(e.row.mode, st->st_mode & 07777);
	assert_int_equal(e.row.uid, st->st_uid);
	assert_int_equal(e.row.gid, st->st_gid);
	if (S_ISREG(st->st_mode)) {
		assert_true(e.row.type == ENTRY_FILE || e.row.type == ENTRY_LINK);
		assert_int_equal(e.row.mtime_ns,
				 st->st_mtim.tv_sec * 1000000000ll + st->st_mtim.tv_nsec);
		const int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
		ok(fd);
		assert_same_content(v, &e, fd, st->st_size);
		close(fd);
	} else if (S_ISLNK(st->st_mode) && e.row.type != ENTRY_LINK) {
		assert_int_equal(e.row.type, ENTRY_SYMLINK);
		const ssize_t n = readlinkat(dir, name, target, sizeof target);
		assert_int_equal(e.row.link.len, n);
		assert_memory_equal(e.row.link.at, target, n);
	} else if (S_ISDIR(st->st_mode)) {
		assert_int_equal(e.row.type, ENTRY_DIR);
	}
}

/* Number of entries below. */
static UNUSED size_t
assert_same_dir(struct view *v, int dir, const char *path)
{
	char below[8192];
	const int copy = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *list = fdopendir(copy);
	const struct dirent *d;
	size_t n = 0, here = 0, listed = 0;
	struct view_entry e;
	struct err err;
	struct stat st;
	int more;

	assert_non_null(list);
	while ((d = readdir(list))) {
		if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0)
			continue;
		snprintf(below, sizeof below, "%s%s%s", path, *path ? "/" : "", d->d_name);
		ok(fstatat(dir, d->d_name, &st, AT_SYMLINK_NOFOLLOW));
		if (S_ISCHR(st.st_mode)) { /* a deletion */
			assert_int_equal(view_find(v, str_of(below), &e, &err), 0);
			continue;
		}
		here++;
		assert_same_entry(v, dir, d->d_name, str_of(below), &st);
		if (S_ISDIR(st.st_mode)) {
			const int fd = openat(dir, d->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
			ok(fd);
			n += assert_same_dir(v, fd, below);
			close(fd);
		}
	}
	closedir(list);
	auto_of(view_walk) struct view_walk *w = view_walk_new(v, str_of(path), false, &err);
	must(w ? 0 : -1, &err);
	while ((more = view_walk_next(w, &e, &err)) > 0)
		listed++;
	must(more, &err);
	if (listed != here)
		fail_msg("%s has %zu entries, the view lists %zu", path, here, listed);
	return n + here;
}

/* All of a directory, as find, list and walk see it. */
static UNUSED void
assert_view_is(struct view *v, int dir)
{
	const size_t n = assert_same_dir(v, dir, "");
	size_t walked = 0;
	struct view_entry e;
	struct err err;
	int more;

	auto_of(view_walk) struct view_walk *w = view_walk_new(v, STR_LIT(""), true, &err);
	must(w ? 0 : -1, &err);
	while ((more = view_walk_next(w, &e, &err)) > 0)
		walked++;
	must(more, &err);
	assert_int_equal(walked, n);
}

#endif
