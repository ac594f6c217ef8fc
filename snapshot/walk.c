#include "walk.h"
#include "dirs.h"
#include "entry.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/sysmacros.h>
#include <unistd.h>

struct level {               /* a directory that is being listed */
	struct buf names;    /* NUL-terminated, one after another */
	const char **sorted; /* owned; into names */
	size_t n, next, path_len;
};

struct walk {
	const struct walk_calls *calls;
	void *ctx;
	struct dirs dirs;
	struct buf path;
	struct level *levels; /* owned */
	size_t n, cap;
	dev_t device;
	uint64_t skipped;
};

int
walk_order(struct str a, struct str b)
{
	const size_t n = a.len < b.len ? a.len : b.len;

	for (size_t i = 0; i < n; i++) {
		if (a.at[i] == b.at[i])
			continue;
		const unsigned x = a.at[i] == '/' ? 0 : (unsigned char)a.at[i];
		const unsigned y = b.at[i] == '/' ? 0 : (unsigned char)b.at[i];
		return x < y ? -1 : 1;
	}
	return a.len == b.len ? 0 : a.len < b.len ? -1 : 1;
}

bool
walk_is_below(struct str path, struct str dir)
{
	if (dir.len == 0)
		return path.len > 0;
	return path.len > dir.len && path.at[dir.len] == '/' &&
	       memcmp(path.at, dir.at, dir.len) == 0;
}

static bool
is_excluded(struct str path)
{
	static const char *const tops[] = {"proc", "sys", "dev", "run", "mnt/memory"};

	for (size_t i = 0; i < sizeof tops / sizeof *tops; i++)
		if (str_is(path, tops[i]))
			return true;
	return false;
}

static int
by_name(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int
read_names(int dir, struct buf *names, size_t *n, struct err *err)
{
	const int copy = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *list = copy < 0 ? NULL : fdopendir(copy);
	const struct dirent *e;

	if (!list) {
		const int why = errno;
		if (copy >= 0)
			close(copy);
		return err_sys(err, why, "list a directory");
	}
	*n = 0;
	while (errno = 0, (e = readdir(list)) != NULL) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		buf_add(names, e->d_name, strlen(e->d_name) + 1);
		++*n;
	}
	const int why = errno;
	closedir(list);
	if (why)
		return err_sys(err, why, "list a directory");
	return buf_bad(names) ? err_set(err, ERR_UNAVAILABLE, "no memory to list a directory") : 0;
}

static void
level_done(struct level *l)
{
	buf_free(&l->names);
	free(l->sorted);
}

/* Lists the innermost directory. */
static int
push_level(struct walk *w, struct err *err)
{
	struct level l = {.names = BUF_MAX((size_t)1 << 31), .path_len = w->path.len};

	if (w->n == w->cap) {
		const size_t cap = w->cap ? w->cap * 2 : 16;
		struct level *grown = realloc(w->levels, cap * sizeof *grown);
		if (!grown)
			return err_set(err, ERR_UNAVAILABLE, "no memory for a directory");
		w->levels = grown;
		w->cap = cap;
	}
	int result = read_names(dirs_fd(&w->dirs), &l.names, &l.n, err);
	if (result == 0 && l.n) {
		l.sorted = try_new(l.n, sizeof *l.sorted);
		if (!l.sorted)
			result = err_set(err, ERR_UNAVAILABLE, "no memory to sort a directory");
	}
	if (result < 0) {
		level_done(&l);
		return -1;
	}
	const char *name = l.names.at;
	for (size_t i = 0; i < l.n; i++, name += strlen(name) + 1)
		l.sorted[i] = name;
	if (l.n)
		qsort(l.sorted, l.n, sizeof *l.sorted, by_name);
	w->levels[w->n++] = l;
	return 0;
}

static bool
is_foreign(const struct walk *w, const struct stat *st)
{
	if (st->st_dev != w->device || S_ISSOCK(st->st_mode) || S_ISBLK(st->st_mode))
		return true;
	return S_ISCHR(st->st_mode) && st->st_rdev != makedev(0, 0);
}

static int
visit(struct walk *w, const char *name, struct err *err)
{
	struct walk_entry e = {.name = name, .dir = dirs_fd(&w->dirs)};

	if (fstatat(e.dir, name, &e.st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : err_sys(err, errno, "look at %s", name);
	if (is_foreign(w, &e.st)) {
		w->skipped++;
		return 0;
	}
	if (w->path.len)
		buf_char(&w->path, '/');
	buf_text(&w->path, name);
	if (buf_bad(&w->path))
		return err_set(err, ERR_USAGE, "a path is longer than %d bytes",
			       ENTRY_PATH_MAX_BYTES);
	e.path = buf_view(&w->path);
	if (w->calls->entry(w->ctx, &e, err) < 0)
		return -1;
	if (!S_ISDIR(e.st.st_mode))
		return 0;
	if (is_excluded(e.path))
		return w->calls->leave(w->ctx, e.path, err);
	if (dirs_enter(&w->dirs, name, err) < 0)
		return errno == ENOENT ? w->calls->leave(w->ctx, e.path, err) : -1;
	return push_level(w, err);
}

/* The next name of the innermost directory, or out of it. */
static int
walk_step(struct walk *w, struct err *err)
{
	struct level *l = &w->levels[w->n - 1];

	w->path.len = l->path_len;
	if (w->path.at)
		w->path.at[l->path_len] = '\0';
	if (l->next < l->n)
		return visit(w, l->sorted[l->next++], err);
	if (w->calls->leave(w->ctx, buf_view(&w->path), err) < 0)
		return -1;
	level_done(l);
	w->n--;
	return w->n ? dirs_leave(&w->dirs, err) : 0;
}

static int
walk_all(struct walk *w, int root, struct err *err)
{
	struct walk_entry e = {.path = STR_LIT(""), .name = ".", .dir = root};

	if (fstat(root, &e.st) < 0)
		return err_sys(err, errno, "look at the upper");
	if (!S_ISDIR(e.st.st_mode))
		return err_set(err, ERR_USAGE, "the upper is not a directory");
	w->device = e.st.st_dev;
	if (dirs_init(&w->dirs, root, err) < 0 || w->calls->entry(w->ctx, &e, err) < 0 ||
	    push_level(w, err) < 0)
		return -1;
	while (w->n)
		if (walk_step(w, err) < 0)
			return -1;
	return 0;
}

int
walk_tree(int root, const struct walk_calls *calls, void *ctx, uint64_t *out_skipped,
	  struct err *err)
{
	struct walk w = {.calls = calls, .ctx = ctx, .path = BUF_MAX(ENTRY_PATH_MAX_BYTES)};
	const int result = walk_all(&w, root, err);

	if (result < 0 && w.path.len)
		err_add(err, "/%.300s", w.path.at);
	while (w.n)
		level_done(&w.levels[--w.n]);
	free(w.levels);
	buf_free(&w.path);
	dirs_done(&w.dirs);
	if (result == 0)
		*out_skipped = w.skipped;
	return result;
}
