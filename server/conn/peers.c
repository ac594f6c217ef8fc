/* What the manager and the keepers say, and what is said to them.
 *
 * Invariants:
 *  1. one session_want is outstanding, however many channels wait for it;
 *  2. a call is asked of one keeper at a time, and only a refusal with AGAIN is asked again: whether a
 *     keeper that died had begun it cannot be known, and no command runs twice by itself;
 *  3. the manager's end is no end of calls: while a keeper lives, the connection does. */
#include "conn.h"

#include "base/fd.h"
#include "base/log.h"
#include "base/time.h"

#include <stdlib.h>

enum {
	MANAGER_AWAY_S = 30,  /* how long new calls wait for the next manager */
	MESSAGES_AT_ONCE = 8, /* of the manager: then what a verb printed has its turn to be sent */
};

static void
fail(struct channel *ch, enum err_code code, struct str why, struct str hint)
{
	struct err err;

	err_set(&err, code, "%.*s", (int)why.len, why.at ? why.at : "");
	if (hint.len)
		err_hint(&err, "%.*s", (int)hint.len, hint.at);
	err_what(&err, "call");
	channel_fail(ch, &err);
}

/* ---- the session ---- */

static bool
has_wanted(const struct conn *c)
{
	for (const struct channel *ch = c->channels; ch; ch = ch->next)
		if (ch->state == CHANNEL_WANTED)
			return true;
	return false;
}

static void
fail_wanted(struct conn *c, enum err_code code, struct str why, struct str hint)
{
	for (struct channel *ch = c->channels; ch; ch = ch->next)
		if (ch->state == CHANNEL_WANTED)
			fail(ch, code, why, hint);
}

static void
on_manager_away(void *ctx)
{
	fail_wanted(ctx, ERR_AGAIN, STR_LIT("the server is being restarted"), STR_LIT(""));
}

static void
want_session(struct conn *c)
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

/* ---- calls ---- */

static void
start_call(struct channel *ch)
{
	struct keeper_link *k = ch->conn->keeper;
	struct err err;

	if (ch->tries++ >= CALL_TRIES_MAX) {
		fail(ch, ERR_AGAIN, STR_LIT("its session refused the call again and again"),
		     STR_LIT(""));
		return;
	}
	ch->keeper = k;
	channel_enter(ch, CHANNEL_ASKED);
	if (wire_send(&k->wire, call_start, &err, .channel = ch->number, .kind = ch->kind,
		      .command = buf_view(&ch->command), .env = buf_view(&ch->env),
		      .pty = ch->pty, .term = buf_view(&ch->term), .columns = ch->columns,
		      .rows = ch->rows, .x_pixels = ch->x_pixels, .y_pixels = ch->y_pixels) == 0)
		return;
	/* Nothing was sent, so asking another keeper runs nothing twice. */
	ch->keeper = NULL;
	ch->conn->keeper = NULL;
	if (err.code == ERR_USAGE) {
		fail(ch, err.code, str_of(err.why), STR_LIT(""));
		return;
	}
	channel_enter(ch, CHANNEL_WANTED);
	want_session(ch->conn);
}

void
peers_start(struct channel *ch)
{
	if (ch->conn->keeper)
		start_call(ch);
	else
		want_session(ch->conn);
}

/* What a send could not deliver is found out where the link is read. */
void
peers_signal(struct channel *ch, unsigned signal)
{
	struct err err;

	if (ch->keeper && !ch->end_known &&
	    wire_send(&ch->keeper->wire, call_signal, &err, .channel = ch->number,
		      .signal = signal) < 0)
		log_err(&err, "signal a call");
}

void
peers_resize(struct channel *ch)
{
	struct err err;

	if (ch->keeper && !ch->end_known &&
	    wire_send(&ch->keeper->wire, call_resize, &err, .channel = ch->number,
		      .columns = ch->columns, .rows = ch->rows, .x_pixels = ch->x_pixels,
		      .y_pixels = ch->y_pixels) < 0)
		log_err(&err, "resize a terminal");
}

void
peers_taken(struct channel *ch)
{
	struct output *out = &ch->out;
	struct err err;

	if (!ch->keeper || ch->end_known || out->reader.at - out->taken_sent < TAKEN_IDLE_BYTES)
		return;
	out->taken_sent = out->reader.at;
	if (wire_send(&ch->keeper->wire, call_taken, &err, .channel = ch->number,
		      .journal_bytes = out->reader.at) < 0)
		log_err(&err, "tell what was taken");
}

void
peers_leave(struct channel *ch)
{
	struct err err;

	if (ch->keeper && wire_send(&ch->keeper->wire, call_leave, &err, .channel = ch->number) < 0)
		log_err(&err, "leave a call");
	ch->keeper = NULL;
}

void
peers_fed(struct channel *ch)
{
	struct err err;

	if (ch->keeper && !ch->end_known &&
	    wire_send(&ch->keeper->wire, call_fed, &err, .channel = ch->number,
		      .bytes = ch->in.fed) < 0)
		log_err(&err, "tell what stdin was written");
}

void
peers_input_end(struct channel *ch)
{
	struct err err;

	if (ch->keeper && !ch->end_known &&
	    wire_send(&ch->keeper->wire, call_input_end, &err, .channel = ch->number) < 0)
		log_err(&err, "end stdin");
}

/* ---- the keeper speaks ---- */

/* BERTH_DETACH: the call's id is all that is wanted. */
static void
answer_detached(struct channel *ch, struct str call)
{
	buf_fmt(&ch->notice, "%.*s\n", (int)call.len, call.at);
	channel_bytes(ch, TEXT_OUT, buf_view(&ch->notice));
	peers_leave(ch);
	channel_enter(ch, CHANNEL_ENDING);
}

void
peers_fail_start(struct channel *ch, struct err *err)
{
	peers_leave(ch);
	err_what(err, "call");
	channel_fail(ch, err);
}

static void
on_started(struct channel *ch, struct wire *w)
{
	struct err err;
	int *fds = w->message.fds;

	if (ch->state != CHANNEL_ASKED)
		return;
	if (ch->out.held)
		held_name(ch->out.held, w->message.call_started.call, true);
	if (ch->detach) {
		answer_detached(ch, w->message.call_started.call);
		return;
	}
	if (flow_begin_input(ch, &fds[0], &err) < 0 ||
	    flow_begin_output(ch, &fds[1], &fds[2], &err) < 0) {
		peers_fail_start(ch, &err);
		return;
	}
	if (ch->stdin_null)
		flow_end_input(ch);
	ch->in.counts = ch->keyed;
	buf_str(&ch->notice, w->message.call_started.call); /* to be named if it gets lost */
	channel_enter(ch, CHANNEL_LIVE);
}

/* Its stdin, of which some may have been taken from a channel before this one. */
static int
take_feed(struct channel *ch, struct wire *w, struct err *err)
{
	const struct msg_call_joined *m = &w->message.call_joined;

	ch->in.waits = m->live && !m->owner && m->feed && !ch->stdin_null;
	if (m->owner && m->feed && ch->stdin_null)
		peers_input_end(ch); /* else nobody would ever end it */
	if (!m->owner || !m->feed || ch->stdin_null)
		return 0;
	ch->in.counts = true;
	ch->in.fed = ch->in.skip = m->fed;
	return flow_begin_input(ch, &w->message.fds[0], err);
}

/* The call it asked for is there already; or, once it has joined that, it has become its owner. */
static void
on_joined(struct channel *ch, struct wire *w)
{
	const struct msg_call_joined *m = &w->message.call_joined;
	const bool joins = ch->state == CHANNEL_ASKED;
	struct err err;

	if (joins && ch->detach) {
		answer_detached(ch, m->call);
		return;
	}
	if (!joins && (ch->state != CHANNEL_LIVE || ch->end_known || !m->owner || ch->in.fd >= 0))
		return;
	if (take_feed(ch, w, &err) < 0 ||
	    (joins && flow_begin_output(ch, &w->message.fds[1], &w->message.fds[2], &err) < 0)) {
		peers_fail_start(ch, &err);
		return;
	}
	ch->out.taken_sent = 0; /* an owner before it may have read less */
	if (!joins) {
		conn_ready(ch);
		return;
	}
	buf_str(&ch->notice, m->call);
	if (ch->out.held) /* whoever was first may have asked for no files, and files go */
		held_name(ch->out.held, m->call, false);
	if (!m->live) { /* its journal tells all there is */
		ch->lost = true;
		ch->out.follow = false;
		ch->keeper = NULL;
	}
	channel_enter(ch, CHANNEL_LIVE);
}

static void
on_again(void *ctx)
{
	struct conn *c = ctx;

	if (has_wanted(c) && !c->keeper)
		want_session(c);
}

/* The manager may not know yet that the keeper is ending, and name the same one. */
static void
ask_later(struct conn *c)
{
	if (!c->again_timer.slot)
		timer_set(&c->loop, &c->again_timer, time_now_ns() + CALL_AGAIN_MS * NS_PER_MS,
			  on_again, c);
}

static void
on_refused(struct channel *ch, const struct msg_call_refused *m)
{
	struct conn *c = ch->conn;

	if (ch->state != CHANNEL_ASKED)
		return;
	if (c->keeper == ch->keeper && m->code == ERR_AGAIN)
		c->keeper = NULL; /* ask the manager which one is next */
	ch->keeper = NULL;
	if (m->code != ERR_AGAIN) {
		fail(ch, err_from_number(m->code), m->why, m->hint);
		return;
	}
	channel_enter(ch, CHANNEL_WANTED);
	if (ch->tries >= CALL_TRIES_AT_ONCE)
		ask_later(c);
	peers_start(ch);
}

static void
on_ended(struct channel *ch, const struct msg_call_ended *m)
{
	if (ch->state != CHANNEL_LIVE)
		return;
	ch->end_known = true;
	ch->exit_status = m->exit_status;
	ch->exit_signal = m->signal;
	ch->core_dumped = m->core_dumped != 0;
	ch->out.limit = m->journal_bytes;
	ch->out.follow = false;
	ch->in.waits = false;
	buf_clear(&ch->notice);
	buf_str(&ch->notice, m->notice);
	flow_end_input(ch);
	conn_ready(ch);
}

/* A line while the call stands still: its terminal, or its stderr, is all its user looks at. */
static void
on_notice(struct channel *ch, struct str text)
{
	auto_buf line = BUF_MAX(1024);

	if (ch->state != CHANNEL_LIVE)
		return;
	buf_str(&line, text);
	buf_char(&line, '\n');
	channel_text(ch, TEXT_ERR, buf_view(&line));
}

static void adopt_manager(struct conn *c, int fd);

static void
on_keeper_message(struct keeper_link *k)
{
	struct message *m = &k->wire.message;
	struct channel *ch;

	switch ((int)m->id) { /* int: the enum has every message there is */
	case MSG_call_started:
		if ((ch = channel_find(k->conn, m->call_started.channel)) && ch->keeper == k)
			on_started(ch, &k->wire);
		return;
	case MSG_call_joined:
		if ((ch = channel_find(k->conn, m->call_joined.channel)) && ch->keeper == k)
			on_joined(ch, &k->wire);
		return;
	case MSG_call_piped:
		if ((ch = channel_find(k->conn, m->call_piped.channel)) && ch->keeper == k)
			piped_started(ch, &k->wire);
		return;
	case MSG_call_refused:
		if ((ch = channel_find(k->conn, m->call_refused.channel)) && ch->keeper == k)
			on_refused(ch, &m->call_refused);
		return;
	case MSG_call_ended:
		if ((ch = channel_find(k->conn, m->call_ended.channel)) && ch->keeper == k)
			on_ended(ch, &m->call_ended);
		return;
	case MSG_call_notice:
		if ((ch = channel_find(k->conn, m->call_notice.channel)) && ch->keeper == k)
			on_notice(ch, m->call_notice.text);
		return;
	case MSG_manager_link:
		adopt_manager(k->conn, fd_steal(&m->fds[0]));
		return;
	default:
		return;
	}
}

static void
free_keeper(void *ctx)
{
	free(ctx);
}

static void
drop_keeper(struct keeper_link *k)
{
	struct conn *c = k->conn;

	for (struct keeper_link **pp = &c->keepers; *pp; pp = &(*pp)->next)
		if (*pp == k) {
			*pp = k->next;
			break;
		}
	if (c->keeper == k)
		c->keeper = NULL;
	wire_close(&k->wire);
	loop_defer(&c->loop, free_keeper, k);
}

static void
on_keeper_gone(struct keeper_link *k)
{
	struct conn *c = k->conn;

	for (struct channel *ch = c->channels; ch; ch = ch->next) {
		if (ch->keeper != k)
			continue;
		ch->keeper = NULL;
		if (ch->state == CHANNEL_LIVE && !ch->end_known) {
			ch->lost = true;
			ch->out.follow = false;
			ch->in.waits = false;
			flow_end_input(ch);
			conn_ready(ch);
		} else if (ch->state == CHANNEL_ASKED) {
			fail(ch, ERR_UNAVAILABLE,
			     STR_LIT("lost: its session ended before it answered"),
			     STR_LIT("whether it ran: ssh berth@HOST calls SESSION"));
		}
	}
	drop_keeper(k);
	if (!wire_is_open(&c->manager) && !c->keepers)
		conn_close(c);
}

static bool
is_used(const struct conn *c, const struct keeper_link *k)
{
	for (const struct channel *ch = c->channels; ch; ch = ch->next)
		if (ch->keeper == k)
			return true;
	return false;
}

static void
on_keeper(void *ctx)
{
	struct keeper_link *k = ctx;
	struct err err;
	int got;

	while ((got = wire_recv(&k->wire, &err)) > 0)
		on_keeper_message(k);
	if (got == 0)
		return;
	if (err.code == ERR_CORRUPT)
		log_err(&err, "a keeper is cut off");
	on_keeper_gone(k);
}

/* ---- the manager speaks ---- */

static void
on_ready(struct conn *c, struct wire *w)
{
	struct err err;
	struct keeper_link *k = xnew(1, sizeof *k), *next;
	const struct str notice = w->message.session_ready.notice;

	k->conn = c;
	if (wire_open(&k->wire, fd_steal(&w->message.fds[0]), ROLE_CONN, ROLE_KEEPER, PHASE_OPEN,
		      &err) < 0 ||
	    wire_watch(&k->wire, &c->loop, on_keeper, k, &err) < 0) {
		wire_close(&k->wire);
		free(k);
		if (err.code == ERR_UNAVAILABLE && ++c->unmet < CALL_TRIES_MAX)
			ask_later(c); /* it has ended since, and was asked nothing */
		else
			fail_wanted(c, err.code, str_of(err.why), STR_LIT(""));
		return;
	}
	c->unmet = 0;
	k->next = c->keepers;
	c->keepers = c->keeper = k;
	for (struct keeper_link *old = k->next; old; old = next) { /* kept while calls end there */
		next = old->next;
		if (!is_used(c, old))
			drop_keeper(old);
	}
	for (struct channel *ch = c->channels; ch; ch = ch->next) {
		if (ch->state != CHANNEL_WANTED || c->keeper != k)
			continue;
		if (ch->pty && notice.len && ch->tries == 0) {
			channel_text(ch, TEXT_OUT, notice);
			channel_text(ch, TEXT_OUT, STR_LIT("\n"));
		}
		start_call(ch);
	}
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
		on_ready(c, &c->manager);
		return;
	case MSG_session_failed:
		if (!c->want_sent || m->session_failed.seq != c->want_seq)
			return;
		c->want_sent = false;
		fail_wanted(c, err_from_number(m->session_failed.code), m->session_failed.why,
			    m->session_failed.hint);
		return;
	case MSG_verb_output:
		if ((ch = channel_find(c, m->verb_output.seq)))
			control_output(ch, m->verb_output.bytes);
		return;
	case MSG_verb_journal:
		if ((ch = channel_find(c, m->verb_journal.seq)))
			control_journal(ch, &c->manager);
		return;
	case MSG_verb_input:
		if ((ch = channel_find(c, m->verb_input.seq)))
			control_feed(ch, &c->manager);
		return;
	case MSG_verb_exit:
		if ((ch = channel_find(c, m->verb_exit.seq)))
			control_exit(ch, &m->verb_exit);
		return;
	case MSG_verb_stream:
		if ((ch = channel_find(c, m->verb_stream.seq)))
			control_stream(ch, &m->verb_stream);
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
	if (!c->proven || c->control || !c->keepers)
		conn_close(c);
	else if (has_wanted(c))
		want_session(c); /* begins the wait for the next manager */
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

int
peers_watch_manager(struct conn *c, struct err *err)
{
	return wire_watch(&c->manager, &c->loop, on_manager, c, err);
}

/* A new manager, by way of a keeper that it took over. */
static void
adopt_manager(struct conn *c, int fd)
{
	struct err err;

	wire_close(&c->manager);
	c->want_sent = false;
	if (wire_open(&c->manager, fd, ROLE_CONN, ROLE_MANAGER, PHASE_OPEN, &err) < 0 ||
	    peers_watch_manager(c, &err) < 0) {
		log_err(&err, "join the new manager");
		wire_close(&c->manager);
		return;
	}
	timer_cancel(&c->manager_timer);
	if (has_wanted(c))
		want_session(c);
}

void
peers_close(struct conn *c)
{
	while (c->keepers)
		drop_keeper(c->keepers);
	wire_close(&c->manager);
	timer_cancel(&c->manager_timer);
	timer_cancel(&c->again_timer);
}
