/* The output of calls with BERTH_MAX_OUTPUT once more, as plain files: /run/berth/out of the session.
 *
 *  1. what the session reads there is read-only to it, and no part of a snapshot;
 *  2. a file has its stream from its first byte on, SPILL_MAX_BYTES at most; where the disk is full it
 *     ends early, which the call's owner is told. The journal does not depend on it. */
#include "keeper.h"

#include "base/fd.h"
#include "base/log.h"
#include "base/path.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define SPILL_MAX_BYTES (1ull << 30)

static const char *const ends[2] = {"out", "err"};

static void
name_of(const struct call *c, int i, char name[ID_BYTES + 8])
{
	snprintf(name, ID_BYTES + 8, "%s.%s", c->id, ends[i]);
}

int
spill_open(struct call *c, struct err *err)
{
	char name[ID_BYTES + 8];

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
	if (fd_write_all(s->fd[i], bytes, n, &err) == 0) {
		s->bytes[i] += n;
		return;
	}
	log_err(&err, "call %s: its spilled output ends here", c->id);
	fd_close(&s->fd[i]);
	if (!c->excess.notice[0])
		snprintf(c->excess.notice, sizeof c->excess.notice,
			 "berth: call: /run/berth/out/%s.%s is not whole: %.60s (its journal may be: ssh "
			 "berth@HOST call output %s)", c->id, ends[i], err.why, c->id);
}
