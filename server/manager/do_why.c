/* why: one sentence on a session: what it does or waits for, since when, and what comes next. Each
 * wait of an act has its words where the step is entered (session_enter); here is what follows it. */
#include "base/time.h"
#include "manager/do.h"

#include <stdio.h>

/* ---- what follows a step ---- */

static const char *
after_step(const struct session *s)
{
	const bool ends = s->current && s->current->kind == WANT_PAUSE;
	const bool saves = s->current && s->current->kind == WANT_PUT;

	switch (s->step) {
	case STEP_CACHE:
	case STEP_TURN:
		return "then its first process starts";
	case STEP_START:
		return "then its channels are served";
	case STEP_HOLD:
	case STEP_FREEZE:
	case STEP_CAPTURE_A:
	case STEP_WRITE_A:
	case STEP_THAW:
		return saves ? "then it goes on, and the path comes out of its snapshot"
			     : "then its processes are asked to end, and what they write is saved "
			       "too; a failure lets it "
			       "go on as before";
	case STEP_TERMINATE:
	case STEP_FREEZE_AGAIN:
	case STEP_CAPTURE_B:
	case STEP_WRITE_B:
	case STEP_REMOVE:
	case STEP_REF:
		return ends ? "then it is paused" : "then its processes are killed";
	case STEP_KILL:
	case STEP_GONE:
		return ends ? "then it is paused" : "then it is as it was asked for";
	case STEP_VIEW:
	case STEP_PUT:
	case STEP_CHANGE:
		return "then it goes on as before";
	case STEP_UNDO:
	case STEP_LET_GO:
		return "then it runs as before";
	case STEP_REMEMBER:
		return "then its processes are frozen and its files saved";
	case STEP_PREPARE:
		return "then its processes stand still while its files are read";
	case STEP_STILL:
	case STEP_READ:
		return "then it goes on; a failure lets it go on as before";
	case STEP_GO_ON:
	case STEP_SAVE:
	case STEP_TELL:
	case STEP_FACTS:
		return "it goes on meanwhile";
	case STEP_IDLE:
		break;
	}
	return "";
}

static void
add_deadline(const struct session *s, struct buf *out)
{
	const uint64_t now_ns = time_now_ns();

	if (s->deadline.slot && s->deadline.deadline_ns > now_ns)
		buf_fmt(out, "; it is given up in %llus at the latest",
			(unsigned long long)((s->deadline.deadline_ns - now_ns) / NS_PER_S + 1));
}

/* ---- its calls ---- */

struct live {
	unsigned n;
	struct call_row oldest;
	uint64_t last_ended_ns;
};

static int
note_call(void *ctx, const struct call_row *row, struct err *err)
{
	struct live *l = ctx;

	(void)err;
	if (row->ended_by[0]) {
		if (row->ended_ns > l->last_ended_ns)
			l->last_ended_ns = row->ended_ns;
		return 0;
	}
	l->n++;
	l->oldest = *row; /* they come with the newest first */
	return 0;
}

static void
say_failure(const struct session *s, struct buf *out)
{
	char age[16];

	if (!s->automatic.failure.code)
		return;
	age_format(s->automatic.failed_ns, age);
	buf_fmt(out, "; its last automatic snapshot failed %s ago: %s", age,
		s->automatic.failure.why);
}

static void
say_running(const struct session *s, const struct live *l, struct buf *out)
{
	char age[16], command[61];

	if (s->disk.suspended) {
		buf_fmt(out, "stands still: %s", s->row.reason);
		return;
	}
	if (l->n == 0) {
		buf_text(out, "runs and waits for a call");
		if (l->last_ended_ns) {
			age_format(l->last_ended_ns, age);
			buf_fmt(out, "; the last one ended %s ago", age);
		}
		buf_text(out, "; it goes on until somebody pauses it");
		return;
	}
	age_format(l->oldest.started_ns, age);
	snprintf(command, sizeof command, "%.60s", l->oldest.command);
	for (char *c = command; *c; c++)
		if ((unsigned char)*c < ' ' || *c == 0x7f)
			*c = ' ';
	buf_fmt(out, "runs %u call%s; the oldest, %s, waits since %s for its command to end: %s", l->n,
		l->n == 1 ? "" : "s", l->oldest.id, age, command);
	const uint64_t wall_ns = session_limits(s).at[LIMIT_WALL];
	if (wall_ns)
		buf_fmt(out, "; each has %llus in all", (unsigned long long)(wall_ns / NS_PER_S));
}

/* ---- at rest ---- */

static void
say_resting(const struct session *s, struct buf *out)
{
	char age[16];

	age_format(s->row.used_ns, age);
	if (s->state == SESSION_FAILED)
		buf_fmt(out, "failed %s ago: %s; its files are kept, and resume tries again", age,
			s->row.reason);
	else if (s->state == SESSION_DELETED)
		buf_fmt(out, "was deleted %s ago", age);
	else if (s->state == SESSION_NEW)
		buf_text(out, "is new and has not started; a first channel, or resume, starts it");
	else
		buf_fmt(out, "is paused since %s%s%s; %s; a first channel, or resume, starts it", age,
			s->row.reason[0] ? ": " : "", s->row.reason,
			s->row.unclean ? "its files are kept, but in no archive yet"
				       : "its files are safe in archives");
}

static void
say(const struct session *s, const struct live *l, struct buf *out)
{
	char age[16];
	unsigned waiting = 0;

	if (s->step != STEP_IDLE) {
		age_format(s->since_ns, age);
		buf_fmt(out, "is %s: it waits since %s for %s; %s", session_state_name(s->state), age,
			s->waits_for, after_step(s));
		add_deadline(s, out);
	} else if (s->state == SESSION_RUNNING) {
		say_running(s, l, out);
		say_failure(s, out);
	} else {
		say_resting(s, out);
	}
	for (const struct want *w = s->wants; w; w = w->next)
		waiting++;
	if (waiting)
		buf_fmt(out, "; %u more request%s wait%s for that", waiting, waiting == 1 ? "" : "s",
			waiting == 1 ? "s" : "");
}

int
do_why(struct manager *m, struct conn *c, const struct request *r, struct session *s,
       struct asker *asker, struct err *err)
{
	auto_buf out = BUF_MAX(16384), sentence = BUF_MAX(4096);
	struct live live = {0};

	(void)c;
	keeper_read(s);
	records_flush(m);
	if (index_list_calls(&m->index, s->row.id, 10000, note_call, &live, err) < 0)
		return -1;
	say(s, &live, &sentence);
	if (r->json) {
		buf_fmt(&out, "{\"session\":\"%s\",\"id\":\"%s\",\"state\":\"%s\",\"calls\":%u,\"why\":",
			s->row.name, s->row.id, session_state_name(s->state), live.n);
		json_put(&out, buf_view(&sentence));
		buf_text(&out, "}\n");
	} else {
		buf_fmt(&out, "%s %s\n", s->row.name, buf_cstr(&sentence));
	}
	return do_answer(asker, &out, err);
}
