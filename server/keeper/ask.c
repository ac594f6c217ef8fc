/* What the manager asks about one call, for a verb of somebody who has the right to. Each question is
 * answered once. */
#include "keeper.h"

#include "base/fd.h"
#include "base/log.h"

#include <signal.h>

/* A write end for somebody who is not its owner: both may write, and it is at its end when both have
 * closed theirs. */
void
ask_input(struct keeper *k, const struct msg_call_input *m)
{
	const struct call *c = call_find_id(k, m->call);
	struct err err;

	if (!c || (c->state != CALL_RUNNING && c->state != CALL_QUEUED)) {
		err_set(&err, ERR_ABSENT, "its command has ended");
		keeper_done(k, m->seq, &err);
		return;
	}
	if (c->sftp) {
		err_set(&err, ERR_UNAVAILABLE, "its stdin is its client's alone: a protocol");
		keeper_done(k, m->seq, &err);
		return;
	}
	if (c->feed < 0) {
		err_set(&err, ERR_UNAVAILABLE,
			"its stdin is at its end; BERTH_STDIN=keep keeps that of a call open");
		keeper_done(k, m->seq, &err);
		return;
	}
	const struct msg_call_input_open body = {.seq = m->seq};
	if (wire_send_fds(&k->manager, MSG_call_input_open, &body, &c->feed, 1, &err) < 0)
		log_err(&err, "answer the manager");
}

void
ask_input_close(struct keeper *k, const struct msg_call_input_close *m)
{
	struct call *c = call_find_id(k, m->call);

	if (c)
		join_end_input(c);
	keeper_done(k, m->seq, NULL);
}

void
ask_watch_journal(struct keeper *k, const struct msg_journal_watch *m)
{
	auto_close int journal = -1;
	auto_close int growth = -1;
	struct call *c = call_find_id(k, m->call);
	struct err err;

	if (!c) {
		err_set(&err, ERR_ABSENT, "no such call runs");
		keeper_done(k, m->seq, &err);
		return;
	}
	if (growth_watch(c, &journal, &growth, &err) < 0) {
		keeper_done(k, m->seq, &err);
		return;
	}
	const struct msg_journal_watched body = {.seq = m->seq};
	const int fds[2] = {journal, growth};
	if (wire_send_fds(&k->manager, MSG_journal_watched, &body, fds, 2, &err) < 0)
		log_err(&err, "answer the manager");
}

/* One that lives, or has left something that does. */
static struct call *
find(struct keeper *k, struct str id)
{
	struct call *c = call_find_id(k, id);

	for (struct call *late = k->late; !c && late; late = late->next)
		if (str_is(id, late->id))
			c = late;
	return c;
}

void
ask_kill(struct keeper *k, const struct msg_call_kill *m)
{
	struct call *c = find(k, m->call);
	struct err err;

	if (!c)
		err_set(&err, ERR_ABSENT, "nothing of it runs any more");
	else if (m->signal < 1 || m->signal > 64)
		err_set(&err, ERR_USAGE, "no such signal");
	else if (c->state == CALL_QUEUED) { /* nothing of it runs: its end is ours to say */
		call_signal(c, m->signal);
		keeper_done(k, m->seq, NULL);
		return;
	} else if (excess_signal(c, m->signal, &err) == 0 &&
		 (m->signal != SIGKILL || k->engine->call_kill(&k->box, c->id, &err) == 0)) {
		keeper_done(k, m->seq, NULL);
		return;
	}
	keeper_done(k, m->seq, &err);
}
