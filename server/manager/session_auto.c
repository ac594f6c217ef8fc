/* Snapshots of a session that nobody asks for: after calls, or in intervals.
 *
 *   call      its keeper holds the next call back when the last one has ended (settle.c there), says so, and
 *             freezes only while none has begun since; calls begin again as soon as the files are read
 *   interval  when something may have changed: a call was there, or a process lived at the last one
 *
 *  1. one that fails is told in the log, in `show` and in `why`, and stops nothing;
 *  2. it waits in the order of all acts: what comes to nothing before its turn is told to the keeper too. */
#include "base/log.h"
#include "base/time.h"
#include "manager/session.h"

#include <stdio.h>

static struct snapshot_mode
mode_of(const struct session *s)
{
	return s->choices.snapshot.when == SNAPSHOT_STANDARD ? s->m->snapshot : s->choices.snapshot;
}

static void on_interval(void *ctx);

static void
set_timer(struct session *s)
{
	const struct snapshot_mode mode = mode_of(s);

	timer_cancel(&s->automatic.timer);
	if (s->keeper.linked && mode.when == SNAPSHOT_INTERVAL)
		timer_set(&s->m->loop, &s->automatic.timer, time_now_ns() + mode.interval_ns,
			  on_interval, s);
}

static bool
is_wanted(const struct session *s)
{
	if (s->current && s->current->kind == WANT_SNAPSHOT)
		return true;
	for (const struct want *w = s->wants; w; w = w->next)
		if (w->kind == WANT_SNAPSHOT)
			return true;
	return false;
}

static void
on_interval(void *ctx)
{
	struct session *s = ctx;

	set_timer(s);
	if (s->state != SESSION_RUNNING || !s->automatic.ran || is_wanted(s))
		return;
	struct want *w = want_new(s->m, WANT_SNAPSHOT, NULL);
	w->automatic = true;
	snprintf(w->made_by, sizeof w->made_by, "interval");
	session_want(s, w);
}

void
session_auto_begin(struct session *s)
{
	struct err err;
	const bool call = mode_of(s).when == SNAPSHOT_CALL;

	if (s->choices.throwaway) /* nothing of it is ever captured */
		return;
	set_timer(s);
	s->automatic.ran = true; /* what a manager before this one has seen is not known */
	if (!s->keeper.linked || (!call && !s->automatic.settles))
		return; /* a keeper of before knows nothing of it, and needs not */
	s->automatic.settles = call;
	if (wire_send(&s->keeper.wire, settle, &err, .on = call) < 0)
		log_err(&err, "session %s",
			s->row.name); /* its end is seen where it is read from */
}

/* The calls that ended since the last snapshot: as many as a row holds. */
static void
note_calls(struct session *s, struct str calls)
{
	char *list = s->automatic.calls;
	const size_t n = strlen(list);

	snprintf(list + n, sizeof s->automatic.calls - n, "%s%.*s", n && calls.len ? " " : "",
		 (int)calls.len, calls.len ? calls.at : "");
	if (n + 1 + calls.len >= sizeof s->automatic.calls) { /* no half of an id */
		char *end = strrchr(list, ' ');
		*(end ? end : list) = '\0';
	}
}

void
session_auto_calls_over(struct session *s, const struct msg_calls_over *m)
{
	note_calls(s, m->calls);
	struct want *w = want_new(s->m, WANT_SNAPSHOT, NULL);
	w->automatic = true;
	w->settled = m->number;
	session_want(s, w);
}

/* What is read now is what these have left; those that end from here on are the next one's. */
void
session_auto_name(struct session *s, struct want *w)
{
	memcpy(w->calls, s->automatic.calls, sizeof w->calls);
	s->automatic.calls[0] = '\0';
	const char *last = strrchr(w->calls, ' ');
	if (w->settled)
		snprintf(w->made_by, sizeof w->made_by, "call %.200s", last ? last + 1 : w->calls);
}

/* It came to nothing: the next one is of its calls too. */
static void
take_names_back(struct session *s, const struct want *w)
{
	char later[sizeof s->automatic.calls];

	memcpy(later, s->automatic.calls, sizeof later);
	memcpy(s->automatic.calls, w->calls, sizeof s->automatic.calls);
	if (later[0])
		note_calls(s, str_of(later));
}

/* A call stands before the door, and its session is frozen: the call comes first. */
void
session_auto_calls_wait(struct session *s, const struct msg_calls_wait *m)
{
	struct err err;

	if (!s->current || !s->current->automatic || s->current->settled != m->number)
		return;
	err_set(&err, ERR_CANCELLED, "a call waited for it for 2 s, and goes first");
	session_snapshot_interrupt(s, &err);
}

void
session_auto_settled(struct session *s, const struct want *w)
{
	struct err err;

	if (w->settled && s->keeper.linked &&
	    wire_send(&s->keeper.wire, settled, &err, .number = w->settled) < 0)
		log_err(&err, "session %s", s->row.name);
}

void
session_auto_end(struct session *s, const struct want *w, const struct err *err)
{
	session_auto_settled(s, w);
	if (err) {
		take_names_back(s, w);
		s->automatic.ran = true;
	}
	if (!w->automatic)
		return;
	if (!err) {
		s->automatic.failure = (struct err){0};
		return;
	}
	if (w->settled && err->code == ERR_AGAIN)
		return; /* a call had begun: its end comes */
	s->automatic.failure = *err;
	s->automatic.failed_ns = time_real_ns();
}

void
session_auto_stop(struct session *s)
{
	timer_cancel(&s->automatic.timer);
	s->automatic.settles = false;
	s->automatic.calls[0] = '\0'; /* what comes next is a pause's, or another upper's */
}
