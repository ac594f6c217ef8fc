/* The moment between calls, which belongs to a snapshot: when the last live call has ended, the next one
 * begins after the manager has read the session's files.
 *
 *   OPEN ─the last call ends▶ SETTLING ─settled, or 2 s, or no manager▶ OPEN
 *
 *  1. the keeper alone closes admission, in the turn in which the call ends: no message of a conn can come
 *     before it. A call_start that comes while it is closed stays in its link, unread (grant.c);
 *  2. the end of a call is told before, and waits for nothing;
 *  3. a freeze for such a snapshot is refused once it is open again: no running call is frozen by it. */
#include "keeper.h"

#include "base/log.h"
#include "base/time.h"

#include <stdio.h>

#define SETTLE_MAX_NS (2 * NS_PER_S)

static void
reopen(struct keeper *k)
{
	k->settle.closed = false;
	timer_cancel(&k->settle.timer);
	grant_go_on(k);
}

static void
on_late(void *ctx)
{
	struct keeper *k = ctx;
	const uint32_t number = k->settle.number;
	struct err err;

	if (grant_any_waits(k) && wire_is_open(&k->manager) &&
	    wire_send(&k->manager, calls_wait, &err, .number = number) < 0)
		log_err(&err, "tell that a call waits");
	reopen(k);
}

static void
close_door(struct keeper *k)
{
	struct settle *s = &k->settle;
	struct err err;

	if (++s->number == 0)
		s->number = 1;
	if (wire_send(&k->manager, calls_over, &err, .number = s->number, .calls = str_of(s->calls),
		      .more = s->more) < 0) {
		log_err(&err, "tell that the calls are over");
		return;
	}
	s->closed = true;
	s->calls[0] = '\0';
	s->more = 0;
	timer_set(&k->loop, &s->timer, time_now_ns() + SETTLE_MAX_NS, on_late, k);
}

static bool
may_settle(struct keeper *k)
{
	const struct settle *s = &k->settle;

	return s->on && (s->calls[0] || s->more) && !s->closed && k->n_calls == 0 && !k->ended &&
	       !k->held && k->pause.state == PAUSE_IDLE && wire_is_open(&k->manager);
}

void
settle_set(struct keeper *k, bool on)
{
	k->settle.on = on;
	if (!on && k->settle.closed)
		reopen(k);
	else if (may_settle(k)) /* they have ended while no manager was there */
		close_door(k);
}

void
settle_call_ended(struct keeper *k, const struct call *c)
{
	struct settle *s = &k->settle;
	const size_t n = strlen(s->calls);

	if (!s->on)
		return;
	if (n + 1 + ID_BYTES < sizeof s->calls)
		snprintf(s->calls + n, sizeof s->calls - n, "%s%s", n ? " " : "", c->id);
	else
		s->more++;
	if (may_settle(k))
		close_door(k);
}

void
settle_end(struct keeper *k, uint32_t number)
{
	if (k->settle.closed && k->settle.number == number)
		reopen(k);
}

void
settle_forget(struct keeper *k)
{
	if (k->settle.closed)
		reopen(k);
}

void
settle_freeze(struct keeper *k, uint32_t seq, uint32_t number)
{
	struct err err;

	if (k->settle.closed && k->settle.number == number) {
		pause_freeze(k, seq);
		return;
	}
	err_set(&err, ERR_AGAIN, "a call may have begun");
	keeper_done(k, seq, &err);
}
