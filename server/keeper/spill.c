/* The output of calls with BERTH_MAX_OUTPUT once more, as plain files: /run/berth/out of the session.
 *
 *  1. what the session reads there is read-only to it, and no part of a snapshot;
 *  2. a file has its stream from its first byte on, SPILL_MAX_BYTES at most; where the disk is full it
 *     ends early, which the call's owner is told. The journal does not depend on it;
 *  3. a session has KEEP_BYTES of them when a call that asks begins: the oldest go, but for those of
 *     live calls. It never has more than ALL_MAX_BYTES. */
#include "keeper.h"

#include "base/fd.h"
#include "base/log.h"
#include "base/path.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define SPILL_MAX_BYTES (1ull << 30)
#define KEEP_BYTES	(4ull << 30)
#define ALL_MAX_BYTES	(8ull << 30)

static const char *const ends[2] = {"out", "err"};

static void
name_of(const struct call *c, int i, char name[ID_BYTES + 8])
{
	snprintf(name, ID_BYTES + 8, "%s.%s", c->id, ends[i]);
}

static bool
is_live(struct keeper *k, const char *name)
{
	struct str rest = str_of(name), id;

	return str_cut(&rest, '.', &id) && call_find_id(k, id);
}

/* Counts what is there; oldest: a name, empty where all belong to live calls. -1: it cannot be read. */
static int
count_all(struct keeper *k, uint64_t *out_bytes, char oldest[NAME_MAX + 1])
{
	struct timespec first = {0};
	struct stat st;

	*out_bytes = 0;
	oldest[0] = '\0';
	const int fd = openat(k->fds[KEEPER_SPILL], ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	if (!dir) {
		if (fd >= 0)
			close(fd);
		return -1;
	}
	for (const struct dirent *e; (e = readdir(dir));) {
		if (fstatat(dirfd(dir), e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode))
			continue;
		*out_bytes += (uint64_t)st.st_blocks * 512;
		const bool older = !oldest[0] || st.st_mtim.tv_sec < first.tv_sec ||
				   (st.st_mtim.tv_sec == first.tv_sec &&
				    st.st_mtim.tv_nsec < first.tv_nsec);
		if (older && !is_live(k, e->d_name)) {
			first = st.st_mtim;
			snprintf(oldest, NAME_MAX + 1, "%s", e->d_name);
		}
	}
	closedir(dir);
	return 0;
}

static int
make_room(struct keeper *k, struct err *err)
{
	char oldest[NAME_MAX + 1];

	for (;;) {
		if (count_all(k, &k->spill_bytes, oldest) < 0)
			return err_sys(err, errno, "count what was spilled");
		if (k->spill_bytes <= KEEP_BYTES || !oldest[0])
			return 0;
		if (unlinkat(k->fds[KEEPER_SPILL], oldest, 0) < 0)
			return err_sys(err, errno, "remove %s, which was spilled", oldest);
	}
}

int
spill_open(struct call *c, struct err *err)
{
	char name[ID_BYTES + 8];

	if (c->options.max_output && make_room(c->keeper, err) < 0)
		return -1;
	for (int i = 0; c->options.max_output && i < 2; i++) {
		name_of(c, i, name);
		c->spill.fd[i] = path_create(c->keeper->fds[KEEPER_SPILL], name, 0640, err);
		if (c->spill.fd[i] < 0)
			return err_add(err, "the spilled output of call %s", c->id);
		if (fchmod(c->spill.fd[i], 0640) < 0) /* whatever our umask is */
			return err_sys(err, errno, "open %s to its session", name);
	}
	return 0;
}

void
spill_close(struct spill *s)
{
	fd_close(&s->fd[0]);
	fd_close(&s->fd[1]);
}

void
spill_remove(const struct call *c)
{
	char name[ID_BYTES + 8];

	for (int i = 0; i < 2; i++)
		if (c->spill.fd[i] >= 0) {
			name_of(c, i, name);
			unlinkat(c->keeper->fds[KEEPER_SPILL], name, 0);
		}
}

void
spill_append(struct call *c, enum journal_stream as, const char *bytes, size_t n)
{
	struct spill *s = &c->spill;
	const int i = as == JOURNAL_ERR;
	struct err err;

	if ((as != JOURNAL_OUT && as != JOURNAL_ERR) || s->fd[i] < 0)
		return;
	const uint64_t room = SPILL_MAX_BYTES - s->bytes[i];
	if (n > room)
		n = (size_t)room;
	if (n == 0)
		return;
	if (c->keeper->spill_bytes + n > ALL_MAX_BYTES)
		err_set(&err, ERR_NO_SPACE, "the session has spilled 8 GiB");
	else if (fd_write_all(s->fd[i], bytes, n, &err) == 0) {
		s->bytes[i] += n;
		c->keeper->spill_bytes += n;
		return;
	}
	log_err(&err, "call %s: its spilled output ends here", c->id);
	fd_close(&s->fd[i]);
	if (!c->excess.notice[0])
		snprintf(c->excess.notice, sizeof c->excess.notice,
			 "berth: call: /run/berth/out/%s.%s is not whole: %.60s (its journal may be: ssh "
			 "berth@HOST call output %s)", c->id, ends[i], err.why, c->id);
}
