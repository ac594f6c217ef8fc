/* The commands of a pause. One at a time, each answered by one `done`; only kill overtakes.
 *
 *   IDLE ─freeze▶ FREEZING ─all stopped▶ IDLE (frozen)     (10 s: thawed again, an error)
 *   IDLE ─terminate▶ TERMINATING ─none left, or grace▶ IDLE
 *   any ─kill▶ KILLING ─pid 1 reaped, calls ended▶ the keeper's end
 *
 *  1. frozen is said when the engine says so, never when it was asked for;
 *  2. a manager that is gone leaves nothing behind: frozen thaws, held admits again. Kill goes on.
 */
#include "keeper.h"

#include "base/log.h"
#include "base/time.h"

#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#define FREEZE_MAX_NS (10 * NS_PER_S)
#define KILL_MAX_NS   (10 * NS_PER_S)
/* How often to look where no event tells: orphans' ends are not told, and not every engine has an
 * fd for its state. */
#define LOOK_NS (20 * NS_PER_MS)

static void step(struct keeper *k);

static void
on_time(void *ctx)
{
	step(ctx);
}

static void
look_again(struct keeper *k)
{
	const uint64_t soon = time_now_ns() + LOOK_NS;
	struct pause *p = &k->pause;

	timer_set(&k->loop, &p->timer, soon < p->deadline_ns ? soon : p->deadline_ns, on_time, k);
}

static void
enter(struct keeper *k, enum pause_state state, uint32_t seq, uint64_t max_ns,
      const char *waits_for)
{
	struct pause *p = &k->pause;

	watch_remove(&p->events);
	timer_cancel(&p->timer);
	p->state = state;
	p->seq = seq;
	p->waits_for = waits_for;
	p->deadline_ns = time_now_ns();
	if (__builtin_add_overflow(p->deadline_ns, max_ns, &p->deadline_ns))
		p->deadline_ns = UINT64_MAX;
}

/* Answers the command under way. */
static void
answer(struct keeper *k, const struct err *err)
{
	const uint32_t seq = k->pause.seq;

	enter(k, PAUSE_IDLE, 0, 0, NULL);
	keeper_done(k, seq, err);
}

static bool
is_busy(struct keeper *k, uint32_t seq)
{
	struct err err;

	if (k->ended)
		err_set(&err, ERR_UNAVAILABLE, "the session has ended");
	else if (k->pause.state != PAUSE_IDLE)
		err_set(&err, ERR_AGAIN, "the keeper still waits for %s", k->pause.waits_for);
	else
		return false;
	keeper_done(k, seq, &err);
	return true;
}

/* ---- freeze and thaw ---- */

static void
on_events(void *ctx, uint32_t events)
{
	struct keeper *k = ctx;
	char text[256];

	(void)events;
	/* the kernel reports the same change until it was read */
	(void)!pread(k->box.events_fd, text, sizeof text, 0);
	step(k);
}

void
pause_freeze(struct keeper *k, uint32_t seq)
{
	struct err err;

	if (is_busy(k, seq))
		return;
	enter(k, PAUSE_FREEZING, seq, FREEZE_MAX_NS, "all processes to stop");
	if (k->engine->freeze(&k->box, true, &err) < 0) {
		answer(k, &err);
		return;
	}
	if (k->box.events_fd >= 0 && watch_add(&k->loop, &k->pause.events, k->box.events_fd,
					       EPOLLPRI, on_events, k, &err) < 0)
		log_err(&err, "watch the session's state"); /* the timer sees it too */
	step(k);
}

static int
thaw(struct keeper *k, struct err *err)
{
	if (!k->suspended && k->engine->freeze(&k->box, false, err) < 0)
		return -1;
	k->frozen = false;
	return 0;
}

static void
step_freezing(struct keeper *k)
{
	struct sandbox_state state;
	struct err err, ignored;

	if (k->engine->state(&k->box, &state, &err) < 0) {
		if (thaw(k, &ignored) < 0)
			log_err(&ignored, "thaw");
		answer(k, &err);
		return;
	}
	if (state.frozen) {
		k->frozen = true;
		answer(k, NULL);
		return;
	}
	if (time_now_ns() < k->pause.deadline_ns) {
		look_again(k);
		return;
	}
	err_set(&err, ERR_TIMEOUT, "a process of the session did not stop");
	if (thaw(k, &ignored) < 0)
		log_err(&ignored, "thaw");
	answer(k, &err);
}

void
pause_thaw(struct keeper *k, uint32_t seq)
{
	struct err err;

	if (k->pause.state == PAUSE_FREEZING) {
		err_set(&err, ERR_CANCELLED, "thawed before all had stopped");
		answer(k, &err);
	}
	if (is_busy(k, seq))
		return;
	const int thawed = thaw(k, &err);
	keeper_done(k, seq, thawed < 0 ? &err : NULL);
}

/* To whoever sits before a call: it would else stand still without a word. */
static void
tell_owners(struct keeper *k, const char *text)
{
	struct err err;

	for (struct call *c = k->calls, *next; c; c = next) {
		next = c->next;
		if (c->owner && !c->owner->dead &&
		    wire_send(&c->owner->conn, call_notice, &err, .channel = c->channel,
			      .text = str_of(text)) < 0)
			log_err(&err, "call %s: tell its owner", c->id);
	}
}

static void
tell_suspension(struct keeper *k)
{
	char line[700];

	if (k->suspended)
		snprintf(line, sizeof line, "berth: call: %s%s%s%s", k->suspend_why,
			 k->suspend_hint[0] ? " (" : "", k->suspend_hint,
			 k->suspend_hint[0] ? ")" : "");
	else
		snprintf(line, sizeof line, "berth: call: the session goes on");
	tell_owners(k, line);
}

/* Its processes stand still for a reason of the manager's. A pause goes its way meanwhile: they
 * are not thawed for it, and have nothing to say to SIGTERM. */
void
pause_suspend(struct keeper *k, const struct msg_suspend *m)
{
	struct err err;

	const bool was = k->suspended;
	k->suspended = m->on != 0;
	if (str_copy(m->why, k->suspend_why, sizeof k->suspend_why, &err) < 0 ||
	    str_copy(m->hint, k->suspend_hint, sizeof k->suspend_hint, &err) < 0)
		log_err(&err, "the words of a suspension");
	const bool stands = k->frozen || k->pause.state == PAUSE_FREEZING;
	if (!k->ended && !stands && k->engine->freeze(&k->box, k->suspended, &err) < 0)
		log_err(&err, k->suspended ? "suspend the session" : "let the session go on");
	if (k->suspended || was)
		tell_suspension(k);
}

void
pause_hold(struct keeper *k, uint32_t seq, bool hold)
{
	k->held = hold;
	keeper_done(k, seq, NULL);
}

/* ---- terminate ---- */

static int
signal_all(struct keeper *k, int signal, struct err *err)
{
	if (k->engine->signal_all)
		return k->engine->signal_all(&k->box, signal, err);
	return keeper_signal(k, 0, (uint32_t)signal) < 0
		   ? err_set(err, ERR_UNAVAILABLE, "init is gone")
		   : 0;
}

void
pause_terminate(struct keeper *k, uint32_t seq, uint64_t grace_ns)
{
	struct err err;

	if (is_busy(k, seq))
		return;
	if (k->suspended) {
		keeper_done(k, seq, NULL);
		return;
	}
	enter(k, PAUSE_TERMINATING, seq, grace_ns, "the session's processes to heed SIGTERM");
	shell_cancel_all(k, "pause");
	if (signal_all(k, SIGTERM, &err) < 0) {
		answer(k, &err);
		return;
	}
	/* An interactive shell ignores SIGTERM; a hang-up it heeds, and passes on to its jobs. */
	for (const struct call *c = k->calls; c; c = c->next)
		if (c->pty)
			(void)!keeper_signal(k, c->number, SIGHUP);
	look_again(k);
}

static void
step_terminating(struct keeper *k)
{
	struct sandbox_state state;
	struct err err;

	if (k->engine->state(&k->box, &state, &err) < 0) {
		answer(k, &err);
		return;
	}
	const bool none_left = state.processes == 0 && k->n_calls == 0;
	if (none_left || time_now_ns() >= k->pause.deadline_ns)
		answer(k, NULL);
	else
		look_again(k);
}

/* ---- kill ---- */

void
pause_kill(struct keeper *k, uint32_t seq, struct str ended_by)
{
	struct err err;

	if (k->pause.state == PAUSE_KILLING || k->ended) {
		(void)is_busy(k, seq);
		return;
	}
	if (k->pause.state != PAUSE_IDLE) {
		err_set(&err, ERR_CANCELLED, "the session is being killed");
		answer(k, &err);
	}
	if (str_copy(ended_by, k->pause.ended_by, sizeof k->pause.ended_by, &err) < 0 ||
	    ended_by.len == 0)
		memcpy(k->pause.ended_by, "kill", 5);
	enter(k, PAUSE_KILLING, seq, KILL_MAX_NS, "the session's processes to die");
	if (k->engine->kill(&k->box, &err) < 0) {
		answer(k, &err);
		return;
	}
	timer_set(&k->loop, &k->pause.timer, k->pause.deadline_ns, on_time, k);
}

static void
step_killing(struct keeper *k)
{
	struct err err;

	err_set(&err, ERR_TIMEOUT, "pid 1 of the session does not end");
	answer(k, &err);
}

/* ---- */

static void
step(struct keeper *k)
{
	switch (k->pause.state) {
	case PAUSE_IDLE:
		return;
	case PAUSE_FREEZING:
		step_freezing(k);
		return;
	case PAUSE_TERMINATING:
		step_terminating(k);
		return;
	case PAUSE_KILLING:
		step_killing(k);
		return;
	}
}

void
pause_process_ended(struct keeper *k)
{
	if (k->pause.state == PAUSE_TERMINATING)
		timer_set(&k->loop, &k->pause.timer, time_now_ns(), on_time, k);
}

void
pause_box_ended(struct keeper *k)
{
	const bool asked = k->pause.state == PAUSE_KILLING;
	struct err err;

	if (k->pause.state == PAUSE_IDLE)
		return;
	err_set(&err, ERR_UNAVAILABLE, "pid 1 of the session has ended");
	answer(k, asked || k->pause.state == PAUSE_TERMINATING ? NULL : &err);
}

void
pause_forget(struct keeper *k)
{
	struct err err;

	if (k->pause.state == PAUSE_KILLING || k->ended)
		return;
	const bool suspended = k->suspended;
	k->suspended = false; /* the next manager looks for itself */
	if (suspended)
		tell_suspension(k);
	if (k->frozen || suspended || k->pause.state == PAUSE_FREEZING) {
		log_line("the manager is gone while the session is frozen: thawing it");
		if (thaw(k, &err) < 0)
			log_err(&err, "thaw");
	}
	k->held = false;
	enter(k, PAUSE_IDLE, 0, 0, NULL);
}
