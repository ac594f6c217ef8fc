#include "source_open.h"
#include "base/fd.h"
#include "base/path.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

enum { KIND_HOST, KIND_DIRECTORY, KIND_FILE };

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
	const int holds = path_holds(dir, m->state, err);

	if (holds <= 0)
		return holds;
	err_set(err, ERR_USAGE, "the source holds the server's own state");
	return err_hint(err, "for a copy of this node, the source is: host");
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
