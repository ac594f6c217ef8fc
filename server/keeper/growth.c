/* Who is told that a journal grew: the call's owner by an eventfd, watchers by a pipe each.
 *
 *  1. once a turn of the loop, whatever was appended in it; nobody is waited for;
 *  2. a watcher's pipe hangs up when nobody appends any more: at the END, and when we die. The
 *     owner's end is told by the link to its conn;
 *  3. a watcher that has gone costs its place no longer than until the next one comes. */
#include "keeper.h"

#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

void
growth_tell(struct call *c)
{
	const uint64_t one = 1;

	c->grown = false;
	for (int i = 0; i < c->n_growth; i++)
		if (c->growth[i] >= 0 && write(c->growth[i], &one, sizeof one) < 0 && errno == EPIPE)
			fd_close(&c->growth[i]); /* else full: it has been told often enough */
	join_tell_growth(c);
}

static void
turn_ends(void *ctx)
{
	growth_tell(ctx);
}

void
growth_note(struct call *c)
{
	if (c->grown)
		return;
	c->grown = true;
	loop_defer(&c->keeper->loop, turn_ends, c);
}

/* A place for one more watcher, maybe of one whose reader is gone. NULL: none is left. */
static int *
find_place(struct call *c)
{
	for (int i = 1; i < c->n_growth; i++) {
		struct pollfd p = {.fd = c->growth[i]};
		if (p.fd >= 0 && poll(&p, 1, 0) == 1)
			fd_close(&c->growth[i]);
		if (c->growth[i] < 0)
			return &c->growth[i];
	}
	if (c->n_growth > CALL_WATCHERS_MAX)
		return NULL;
	c->growth[c->n_growth] = -1;
	return &c->growth[c->n_growth++];
}

/* A pipe, not an eventfd: it hangs up when nobody appends any more, whatever became of us. */
int
growth_watch(struct call *c, int *out_journal, int *out_growth, struct err *err)
{
	int *const place = find_place(c);
	int ends[2];

	if (!place)
		return err_set(err, ERR_UNAVAILABLE, "call %s has %d readers already", c->id,
			       CALL_WATCHERS_MAX);
	auto_close int journal = journal_open_reader(c->keeper->fds[KEEPER_CALLS], c->id, err);
	if (journal < 0)
		return -1;
	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
		return err_sys(err, errno, "make a pipe");
	*place = ends[1];
	*out_growth = ends[0];
	*out_journal = fd_steal(&journal);
	return 0;
}

void
growth_end_watchers(struct call *c)
{
	for (int i = 1; i < c->n_growth; i++)
		fd_close(&c->growth[i]);
}
