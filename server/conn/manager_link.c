/* What the manager says, and what is asked of it.
 *
 * Invariants:
 *  1. one session_want is outstanding, however many channels wait for it;
 *  2. the manager's end is no end of calls: while a keeper lives, the connection does. */
#include "conn.h"

#include "base/log.h"
#include "base/time.h"

enum {
	MANAGER_AWAY_S = 30,  /* how long new calls wait for the next manager */
	MESSAGES_AT_ONCE = 8, /* of the manager: then what a verb printed has its turn to be sent */
};

static bool
has_wanted(const struct conn *c)
{
	for (const struct channel *ch = c->channels; ch; ch = ch->next)
		if (ch->state == CHANNEL_WANTED)
			return true;
	return false;
}

void
manager_link_fail_wanted(struct conn *c, enum err_code code, struct str why, struct str hint)
{
	for (struct channel *ch = c->channels; ch; ch = ch->next)
		if (ch->state == CHANNEL_WANTED)
			peers_fail(ch, code, why, hint);
}

static void
on_manager_away(void *ctx)
{
	manager_link_fail_wanted(ctx, ERR_AGAIN, STR_LIT("the server is being restarted"),
				 STR_LIT(""));
}

void
manager_link_want(struct conn *c)
{
	struct err err;

	if (c->want_sent || c->again_timer.slot)
		return;
	if (!wire_is_open(&c->manager)) {
		if (!c->manager_timer.slot)
			timer_set(&c->loop, &c->manager_timer,
				  time_now_ns() + MANAGER_AWAY_S * NS_PER_S, on_manager_away, c);
		return;
	}
	if (wire_send(&c->manager, session_want, &err, .seq = ++c->want_seq) < 0) {
		log_err(&err, "ask for the session");
		return; /* its end is seen where it is read from */
	}
	c->want_sent = true;
}

static void
on_again(void *ctx)
{
	struct conn *c = ctx;

	if (has_wanted(c) && !c->keeper)
		manager_link_want(c);
}

void
manager_link_ask_later(struct conn *c)
{
	if (!c->again_timer.slot)
		timer_set(&c->loop, &c->again_timer, time_now_ns() + CALL_AGAIN_MS * NS_PER_MS,
			  on_again, c);
}

static void
on_manager_message(struct conn *c)
{
	struct message *m = &c->manager.message;
	struct channel *ch;

	switch ((int)m->id) { /* int: the enum has every message there is */
	case MSG_session_ready:
		if (!c->want_sent || m->session_ready.seq != c->want_seq)
			return;
		c->want_sent = false;
		peers_meet(c, &c->manager);
		return;
	case MSG_session_failed:
		if (!c->want_sent || m->session_failed.seq != c->want_seq)
			return;
		c->want_sent = false;
		manager_link_fail_wanted(c, err_from_number(m->session_failed.code),
					 m->session_failed.why, m->session_failed.hint);
		return;
	case MSG_verb_output:
		if ((ch = channel_find(c, m->verb_output.seq)))
			control_output(ch, m->verb_output.bytes);
		return;
	case MSG_verb_tail:
		if ((ch = channel_find(c, m->verb_tail.seq)))
			tail_print(ch, &c->manager);
		return;
	case MSG_verb_journal:
		if ((ch = channel_find(c, m->verb_journal.seq)))
			control_journal(ch, &c->manager);
		return;
	case MSG_verb_pipe:
		if ((ch = channel_find(c, m->verb_pipe.seq)))
			control_pipe(ch, &c->manager);
		return;
	case MSG_verb_input:
		if ((ch = channel_find(c, m->verb_input.seq)))
			control_feed(ch, &c->manager);
		return;
	case MSG_agent_ready:
		forward_agent_ready(c, &m->agent_ready);
		return;
	case MSG_verb_exit:
		if ((ch = channel_find(c, m->verb_exit.seq)))
			control_exit(ch, &m->verb_exit);
		return;
	case MSG_verb_stream:
		if ((ch = channel_find(c, m->verb_stream.seq)))
			control_stream(ch, &m->verb_stream);
		return;
	case MSG_conn_cut:
		conn_end(c, "its key may not come in any more");
		return;
	case MSG_verb_progress:
		if ((ch = channel_find(c, m->verb_progress.seq)))
			progress_show(ch, &m->verb_progress);
		return;
	case MSG_verb_interrupted:
		if ((ch = channel_find(c, m->verb_interrupted.seq)))
			control_interrupted(ch, &m->verb_interrupted);
		return;
	case MSG_verb_end:
		if ((ch = channel_find(c, m->verb_end.seq)))
			control_end(ch, &m->verb_end);
		return;
	default:
		return;
	}
}

static void
on_manager_gone(struct conn *c)
{
	wire_close(&c->manager);
	c->want_sent = false;
	if (c->agent == AGENT_ASKED)
		c->agent = AGENT_UNKNOWN;
	if (!c->proven || c->control || !c->keepers)
		conn_close(c);
	else if (has_wanted(c))
		manager_link_want(c); /* begins the wait for the next manager */
}

static void
on_manager(void *ctx)
{
	struct conn *c = ctx;
	struct err err;
	int got = 1;

	for (int i = 0; i < MESSAGES_AT_ONCE && got > 0; i++)
		if ((got = wire_recv(&c->manager, &err)) > 0)
			on_manager_message(c);
	if (got >= 0)
		return;
	if (err.code == ERR_CORRUPT)
		log_err(&err, "the manager is cut off");
	on_manager_gone(c);
}

void
manager_link_read(struct conn *c)
{
	if (wire_is_open(&c->manager))
		on_manager(c);
}

int
manager_link_watch(struct conn *c, struct err *err)
{
	return wire_watch(&c->manager, &c->loop, on_manager, c, err);
}

void
manager_link_adopt(struct conn *c, int fd)
{
	struct err err;

	wire_close(&c->manager);
	c->want_sent = false;
	if (wire_open(&c->manager, fd, ROLE_CONN, ROLE_MANAGER, PHASE_OPEN, &err) < 0 ||
	    manager_link_watch(c, &err) < 0) {
		log_err(&err, "join the new manager");
		wire_close(&c->manager);
		return;
	}
	timer_cancel(&c->manager_timer);
	if (has_wanted(c))
		manager_link_want(c);
}

void
manager_link_close(struct conn *c)
{
	wire_close(&c->manager);
	timer_cancel(&c->manager_timer);
	timer_cancel(&c->again_timer);
}
