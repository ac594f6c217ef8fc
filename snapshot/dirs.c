#include "dirs.h"
#include "base/fd.h"
#include "base/path.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DIRECTORY = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC };

/* Without changing the access time where that is allowed: to read is not to use. */
static int
open_dir(int at, const char *name)
{
	const int fd = openat(at, name, DIRECTORY | O_NOATIME);
	return fd >= 0 || errno != EPERM ? fd : openat(at, name, DIRECTORY);
}

static int
push(struct dirs *d, int take_fd, struct err *err)
{
	auto_close int fd = take_fd;
	struct stat st;

	if (fstat(fd, &st) < 0)
		return err_sys(err, errno, "look at a directory");
	if (d->n >= DIRS_DEPTH_MAX)
		return err_set(err, ERR_CORRUPT, "directories deeper than %d levels",
			       DIRS_DEPTH_MAX);
	if (d->n == d->cap) {
		const size_t cap = d->cap ? d->cap * 2 : 16;
		struct dirs_level *grown = realloc(d->at, cap * sizeof *grown);
		if (!grown)
			return err_set(err, ERR_UNAVAILABLE, "no memory for a directory");
		d->at = grown;
		d->cap = cap;
	}
	d->at[d->n++] = (struct dirs_level){fd_steal(&fd), st.st_dev, st.st_ino};
	if (d->n > DIRS_OPEN_MAX + 1) /* the root stays open */
		fd_close(&d->at[d->n - 1 - DIRS_OPEN_MAX].fd);
	return 0;
}

int
dirs_init(struct dirs *d, int root, struct err *err)
{
	*d = (struct dirs){0};
	const int fd = open_dir(root, ".");
	if (fd < 0)
		return err_sys(err, errno, "open a directory");
	return push(d, fd, err);
}

void
dirs_done(struct dirs *d)
{
	for (size_t i = 0; i < d->n; i++)
		fd_close(&d->at[i].fd);
	free(d->at);
	*d = (struct dirs){0};
}

int
dirs_fd(const struct dirs *d)
{
	return d->at[d->n - 1].fd;
}

int
dirs_enter(struct dirs *d, const char *name, struct err *err)
{
	const int fd = open_dir(dirs_fd(d), name);
	if (fd < 0) {
		const int why = errno;
		err_sys(err, why, "open directory %s", name);
		errno = why;
		return -1;
	}
	return push(d, fd, err);
}

int
dirs_leave(struct dirs *d, struct err *err)
{
	struct dirs_level *inner = &d->at[d->n - 1], *outer = &d->at[d->n - 2];

	if (outer->fd < 0) {
		struct stat st;
		auto_close int fd = open_dir(inner->fd, "..");
		if (fd < 0 || fstat(fd, &st) < 0)
			return err_sys(err, errno, "go back to an outer directory");
		if (st.st_dev != outer->dev || st.st_ino != outer->ino)
			return err_set(err, ERR_INTERNAL,
				       "a directory was moved while it was read");
		outer->fd = fd_steal(&fd);
	}
	fd_close(&inner->fd);
	d->n--;
	return 0;
}

int
dirs_open(int root, struct str path, struct err *err)
{
	auto_close int at = openat(root, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (at < 0)
		return err_sys(err, errno, "open a directory");
	while (path.len) {
		/* as many whole components as one system call takes */
		char part[2048];
		size_t n = path.len;
		if (n >= sizeof part) {
			n = sizeof part - 1;
			while (n && path.at[n] != '/')
				n--;
			if (n == 0)
				return err_set(err, ERR_CORRUPT,
					       "a name is longer than any can be");
		}
		memcpy(part, path.at, n);
		part[n] = '\0';
		const int next = path_open(at, part, O_PATH | O_DIRECTORY, err);
		if (next < 0)
			return -1;
		fd_close(&at);
		at = next;
		path.at += n;
		path.len -= n;
		while (path.len && path.at[0] == '/') {
			path.at++;
			path.len--;
		}
	}
	return fd_steal(&at);
}

/* Removes what it can of the innermost directory. 1: a directory with something in it stands in
 * `out_name`, 0: all is gone, -1. */
static int
remove_entries(const struct dirs *d, char out_name[256], struct err *err)
{
	const int copy = openat(dirs_fd(d), ".", DIRECTORY);
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
		if (unlinkat(dirs_fd(d), e->d_name, e->d_type == DT_DIR ? AT_REMOVEDIR : 0) == 0 ||
		    errno == ENOENT)
			continue;
		if (errno == ENOTEMPTY || errno == EEXIST || errno == EISDIR) {
			snprintf(out_name, 256, "%s", e->d_name);
			result = 1;
		} else {
			result = err_sys(err, errno, "remove %s", e->d_name);
		}
	}
	closedir(list);
	return result;
}

int
dirs_remove_tree(int dir, const char *name, struct err *err)
{
	if (unlinkat(dir, name, 0) == 0 || errno == ENOENT)
		return 0;
	if (errno != EISDIR)
		return err_sys(err, errno, "remove %s", name);
	if (unlinkat(dir, name, AT_REMOVEDIR) == 0)
		return 0;

	auto_dirs d = {0};
	auto_buf names = BUF_MAX((size_t)DIRS_DEPTH_MAX * 256); /* NUL-terminated, of each level */
	char inner[256];
	if (dirs_init(&d, dir, err) < 0 || dirs_enter(&d, name, err) < 0)
		return -1;
	const dev_t device = d.at[1].dev;
	buf_add(&names, name, strlen(name) + 1);
	while (d.n > 1) {
		const int more = remove_entries(&d, inner, err);
		if (more < 0)
			return -1;
		if (more) {
			if (dirs_enter(&d, inner, err) < 0)
				return -1;
			if (d.at[d.n - 1].dev != device)
				return err_set(err, ERR_INTERNAL,
					       "remove %s: another filesystem is "
					       "mounted there",
					       inner);
			buf_add(&names, inner, strlen(inner) + 1);
			if (buf_bad(&names))
				return err_set(err, ERR_UNAVAILABLE, "no memory for a name");
			continue;
		}
		if (dirs_leave(&d, err) < 0)
			return -1;
		size_t last = names.len - 1;
		while (last && names.at[last - 1] != '\0')
			last--;
		if (unlinkat(dirs_fd(&d), names.at + last, AT_REMOVEDIR) < 0 && errno != ENOENT)
			return err_sys(err, errno, "remove %s", names.at + last);
		names.len = last;
	}
	return 0;
}

int
dirs_clear(int dir, struct err *err)
{
	auto_dirs d = {0};
	char inner[256];

	if (dirs_init(&d, dir, err) < 0)
		return -1;
	for (;;) {
		const int more = remove_entries(&d, inner, err);
		if (more <= 0)
			return more;
		if (dirs_remove_tree(dir, inner, err) < 0)
			return -1;
	}
}
