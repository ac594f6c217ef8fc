/* Who listens to a call: its owner, whose channel gives stdin and takes the output, and with a key
 * (BERTH_CALL) all that have asked for the same since.
 *
 *  1. an owner that is gone ends a call by SIGHUP, unless it was detached or has a key;
 *  2. with a key the oldest of those that have joined becomes the owner; without any, stdin is held
 *     open for INPUT_HELD, then is at its end, but for BERTH_STDIN=keep;
 *  3. whoever gives stdin gives it from its first byte on: conn passes over the `fed` bytes that were
 *     taken, as its conn of then told us before it left;
 *  4. only the owner is waited for (journal.h); each reader has an eventfd of its own, so that
 *     nobody can stop the others' from telling. */
#include "keeper.h"

#include "base/fd.h"
#include "base/log.h"
#include "base/time.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define INPUT_HELD_NS (60 * NS_PER_S)

struct reader {
	struct reader *next;
	struct grant *grant; /* lent */
	uint32_t channel;
	int growth; /* owned */
};

static int
make_growth(struct err *err)
{
	const int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return fd < 0 ? err_sys(err, errno, "make an eventfd") : fd;
}

static void
free_reader(struct reader *r)
{
	fd_close(&r->growth);
	free(r);
}

/* ---- stdin ----
 * The keeper keeps a write end of its own, so that others than the owner can give some (`call input`),
 * and an owner that comes back. It is closed when the owner's is at its end. */

void
join_fed(struct call *c, uint64_t bytes)
{
	if (bytes > c->fed)
		c->fed = bytes;
}

void
join_owner_input_ended(struct call *c)
{
	if (c->options.input != OPTION_INPUT_KEEP)
		join_end_input(c);
}

void
join_end_input(struct call *c)
{
	timer_cancel(&c->hold);
	fd_close(&c->feed);
}

static void
on_hold(void *ctx)
{
	struct call *c = ctx;

	if (c->state == CALL_QUEUED) /* it has had no chance to read any of it */
		timer_set(&c->keeper->loop, &c->hold, time_now_ns() + INPUT_HELD_NS, on_hold, c);
	else
		join_end_input(c);
}

/* For the next owner; with BERTH_STDIN=keep for as long as it takes. */
static void
hold_input(struct call *c)
{
	if (c->feed >= 0 && c->options.input != OPTION_INPUT_KEEP)
		timer_set(&c->keeper->loop, &c->hold, time_now_ns() + INPUT_HELD_NS, on_hold, c);
}

void
join_launched(struct call *c)
{
	if (!c->owner)
		hold_input(c);
}

/* ---- to join ---- */

/* `growth` is lent, `journal` too. What cannot be sent cuts the link. */
static void
say_joined(struct grant *g, uint32_t channel, const struct call *c, const char *call, int journal,
	   int growth)
{
	struct keeper *k = g->keeper;
	const bool owner = c && c->owner == g && c->channel == channel;
	const bool feed = c && c->feed >= 0;
	const struct msg_call_joined body = {
	    .channel = channel,
	    .call = str_of(call),
	    .live = c != NULL,
	    .owner = owner,
	    .feed = feed,
	    .fed = feed && !c->pty ? c->fed : 0, /* what is typed into a terminal is typed once */
	};
	const int fds[3] = {owner && feed ? c->feed : k->null, journal, growth};
	struct err err;

	if (wire_send_fds(&g->conn, MSG_call_joined, &body, fds, 3, &err) < 0)
		grant_cut_later(g, &err);
}

static void
own(struct call *c, struct grant *g, uint32_t channel, int take_growth)
{
	timer_cancel(&c->hold);
	fd_close(&c->growth[0]);
	c->growth[0] = take_growth;
	c->owner = g;
	c->channel = channel;
	journal_own(&c->journal);
}

int
join_live(struct call *c, struct grant *g, uint32_t channel, struct err *err)
{
	if (c->owner && c->n_readers >= CALL_READERS_MAX)
		return err_set(err, ERR_UNAVAILABLE, "call %s has %d readers already", c->id,
			       CALL_READERS_MAX);
	auto_close int journal = journal_open_reader(c->keeper->fds[KEEPER_CALLS], c->id, err);
	auto_close int growth = journal < 0 ? -1 : make_growth(err);
	if (growth < 0)
		return -1;
	const int lent = growth;
	if (!c->owner) {
		own(c, g, channel, fd_steal(&growth));
	} else {
		struct reader *r = try_new(1, sizeof *r), **at = &c->readers;
		if (!r)
			return err_set(err, ERR_UNAVAILABLE, "no memory for a reader");
		*r = (struct reader){.grant = g, .channel = channel, .growth = fd_steal(&growth)};
		while (*at)
			at = &(*at)->next;
		*at = r;
		c->n_readers++;
	}
	say_joined(g, channel, c, c->id, journal, lent);
	return 0;
}

int
join_ended(struct grant *g, uint32_t channel, const char *call, struct err *err)
{
	auto_close int journal = journal_open_reader(g->keeper->fds[KEEPER_CALLS], call, err);
	if (journal < 0 && errno == ENOENT) {
		err_set(err, ERR_UNAVAILABLE, "lost: a crash has cut call %s, and its journal", call);
		return err_hint(err, "it is not run again: take a new key");
	}
	auto_close int growth = journal < 0 ? -1 : make_growth(err);
	if (growth < 0)
		return -1;
	say_joined(g, channel, NULL, call, journal, growth);
	return 0;
}

bool
join_has(const struct keeper *k, const struct grant *g, uint32_t channel)
{
	for (const struct call *c = k->calls; c; c = c->next) {
		if (c->owner == g && c->channel == channel)
			return true;
		for (const struct reader *r = c->readers; r; r = r->next)
			if (r->grant == g && r->channel == channel)
				return true;
	}
	return false;
}

/* ---- to leave ---- */

/* Takes one out of the list. */
static void
remove_reader(struct call *c, struct reader **at)
{
	struct reader *r = *at;

	*at = r->next;
	c->n_readers--;
	free_reader(r);
}

/* The next owner of a call with a key. Its conn reads the journal through an fd of its own already. */
static void
promote(struct call *c)
{
	struct reader *r = c->readers;
	struct grant *const g = r->grant;

	own(c, g, r->channel, fd_steal(&r->growth));
	remove_reader(c, &c->readers);
	say_joined(g, c->channel, c, c->id, c->keeper->null, c->keeper->null);
}

static void
owner_left(struct call *c)
{
	struct keeper *k = c->keeper;

	c->owner = NULL;
	journal_disown(&c->journal);
	if (c->readers) {
		promote(c);
	} else if (c->options.key[0]) {
		hold_input(c);
	} else {
		fd_close(&c->growth[0]);
		if (!c->options.detach)
			join_end_input(c);
		terminal_close(&c->terminal);
		fd_close(&c->input);
		if (c->state == CALL_QUEUED && !c->options.detach) {
			const struct journal_outcome left = {.signal = SIGHUP, .ended_by = "signal"};
			call_cancel(c, &left);
			return;
		}
		if (c->state == CALL_RUNNING && !c->options.detach)
			(void)!keeper_signal(k, c->number, SIGHUP);
	}
	call_resume(c);
}

/* channel NULL: any of that link. */
static void
leave(struct call *c, const struct grant *g, const uint32_t *channel)
{
	for (struct reader **at = &c->readers; *at;)
		if ((*at)->grant == g && (!channel || (*at)->channel == *channel))
			remove_reader(c, at);
		else
			at = &(*at)->next;
	if (c->owner == g && (!channel || c->channel == *channel))
		owner_left(c);
}

void
join_leave(struct keeper *k, const struct grant *g, uint32_t channel)
{
	for (struct call *c = k->calls, *next; c; c = next) {
		next = c->next;
		leave(c, g, &channel);
	}
}

void
join_leave_all(struct keeper *k, const struct grant *g)
{
	for (struct call *c = k->calls, *next; c; c = next) {
		next = c->next;
		leave(c, g, NULL);
	}
}

/* ---- what they are told ---- */

void
join_tell_growth(struct call *c)
{
	const uint64_t one = 1;

	for (struct reader *r = c->readers; r; r = r->next)
		(void)!write(r->growth, &one, sizeof one); /* full: it was told often enough */
}

static void
tell_end(const struct call *c, struct grant *g, uint32_t channel, const char *notice)
{
	const struct journal_outcome *o = &c->outcome;
	struct err err;

	if (!g || g->dead)
		return;
	if (wire_send(&g->conn, call_ended, &err, .channel = channel, .exit_status = o->exit_status,
		      .signal = o->signal, .core_dumped = o->core_dumped,
		      .ended_by = str_of(o->ended_by), .journal_bytes = c->journal.at,
		      .notice = str_of(notice)) < 0)
		grant_cut_later(g, &err);
}

static void
tell_output_end(const struct call *c, struct grant *g, uint32_t channel)
{
	struct err err;

	if (g && !g->dead &&
	    wire_send(&g->conn, call_output_end, &err, .channel = channel,
		      .journal_bytes = c->journal.at) < 0)
		grant_cut_later(g, &err);
}

void
join_tell_output_end(const struct call *c)
{
	tell_output_end(c, c->owner, c->channel);
	for (const struct reader *r = c->readers; r; r = r->next)
		tell_output_end(c, r->grant, r->channel);
}

void
join_tell_end(struct call *c, const char *notice)
{
	struct grant *owner = c->owner;

	c->owner = NULL;
	tell_end(c, owner, c->channel, notice);
	while (c->readers) {
		struct grant *g = c->readers->grant;
		const uint32_t channel = c->readers->channel;
		remove_reader(c, &c->readers);
		tell_end(c, g, channel, notice);
	}
	join_end_input(c);
}

void
join_done(struct call *c)
{
	while (c->readers)
		remove_reader(c, &c->readers);
	join_end_input(c);
}
