#include "source_open.h"
#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

enum { KIND_HOST, KIND_DIRECTORY, KIND_FILE, DEPTH_MAX = 256 };

void
source_opened_done(struct source_opened *s)
{
	for (size_t i = 0; i < sizeof s->fds / sizeof *s->fds; i++)
		fd_close(&s->fds[i]);
}

static int
open_host(const struct manager *m, struct source_opened *out, struct err *err)
{
	out->kind = KIND_HOST;
	out->fds[0] = fd_dup(m->image, err);
	if (out->fds[0] < 0)
		return -1;
	out->fds[1] = open("/usr", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (out->fds[1] < 0)
		return err_sys(err, errno, "open /usr");
	out->fds[2] = open("/var/lib/dpkg", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	out->n = out->fds[2] < 0 ? 2 : 3;
	return 0;
}

/* A copy of the state within the state would not end, and an image must not hold keys. */
static int
check_apart(const struct manager *m, int dir, struct err *err)
{
	struct stat wanted, st, last = {0};
	auto_close int at = fd_dup(m->state, err);

	if (at < 0)
		return -1;
	if (fstat(dir, &wanted) < 0)
		return err_sys(err, errno, "look at the source");
	for (int i = 0; i < DEPTH_MAX; i++) {
		if (fstat(at, &st) < 0)
			return err_sys(err, errno, "look above the state directory");
		if (st.st_dev == wanted.st_dev && st.st_ino == wanted.st_ino) {
			err_set(err, ERR_USAGE, "the source holds the server's own state");
			return err_hint(err, "for a copy of this node, the source is: host");
		}
		if (i && st.st_dev == last.st_dev && st.st_ino == last.st_ino)
			return 0;
		last = st;
		auto_close int below = fd_steal(&at);
		at = openat(below, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (at < 0)
			return err_sys(err, errno, "go above the state directory");
	}
	return 0;
}

int
source_open(const struct manager *m, struct str path, struct source_opened *out, struct err *err)
{
	struct stat st;

	if (str_is(path, "host"))
		return open_host(m, out, err);
	if (path.len == 0 || path.at[0] != '/') {
		err_set(err, ERR_USAGE, "the source is neither host nor an absolute path");
		return err_hint(err, "paths are of the server's machine");
	}
	auto_free char *text = xstrndup(path);
	out->fds[0] = open(text, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (out->fds[0] < 0) {
		if (errno != ENOENT)
			return err_sys(err, errno, "open %s", text);
		err_set(err, ERR_ABSENT, "there is no %s", text);
		return err_hint(err, "paths are of the server's machine");
	}
	if (fstat(out->fds[0], &st) < 0)
		return err_sys(err, errno, "look at %s", text);
	if (!S_ISDIR(st.st_mode) && !S_ISREG(st.st_mode))
		return err_set(err, ERR_USAGE, "%s is neither a directory nor a file", text);
	out->kind = S_ISDIR(st.st_mode) ? KIND_DIRECTORY : KIND_FILE;
	out->n = 1;
	return S_ISDIR(st.st_mode) ? check_apart(m, out->fds[0], err) : 0;
}
