/* What the keepers say, and what is said to them.
 *
 * Invariant: a call is asked of one keeper at a time, and only a refusal with AGAIN is asked again:
 * whether a keeper that died had begun it cannot be known, and no command runs twice by itself. */
#include "conn.h"

#include "base/fd.h"
#include "base/log.h"
#include "base/time.h"

#include <poll.h>
#include <signal.h>
#include <stdlib.h>

void
peers_fail(struct channel *ch, enum err_code code, struct str why, struct str hint)
{
	struct err err;

	err_set(&err, code, "%.*s", (int)why.len, why.at ? why.at : "");
	if (hint.len)
		err_hint(&err, "%.*s", (int)hint.len, hint.at);
	err_what(&err, "call");
	channel_fail(ch, &err);
}

/* ---- calls ---- */

static int
ask_keeper(struct channel *ch, struct err *err)
{
	if (ch->forward)
		return forward_ask(ch, err);
	return wire_send(&ch->keeper->wire, call_start, err, .channel = ch->number,
			 .kind = ch->kind, .command = buf_view(&ch->command),
			 .env = buf_view(&ch->env), .pty = ch->pty, .term = buf_view(&ch->term),
			 .columns = ch->columns, .rows = ch->rows, .x_pixels = ch->x_pixels,
			 .y_pixels = ch->y_pixels);
}

static void
start_call(struct channel *ch)
{
	struct keeper_link *k = ch->conn->keeper;
	struct err err;

	if (ch->tries++ >= CALL_TRIES_MAX) {
		peers_fail(ch, ERR_AGAIN, STR_LIT("its session refused the call again and again"),
			   STR_LIT(""));
		return;
	}
	if (forward_waits_for_agent(ch))
		return;
	ch->keeper = k;
	channel_enter(ch, CHANNEL_ASKED);
	if (ask_keeper(ch, &err) == 0)
		return;
	/* Nothing was sent, so asking another keeper runs nothing twice. */
	ch->keeper = NULL;
	ch->conn->keeper = NULL;
	if (err.code == ERR_USAGE) {
		peers_fail(ch, err.code, str_of(err.why), STR_LIT(""));
		return;
	}
	channel_enter(ch, CHANNEL_WANTED);
	manager_link_want(ch->conn);
}

void
peers_start(struct channel *ch)
{
	if (ch->conn->keeper)
		start_call(ch);
	else
		manager_link_want(ch->conn);
}

/* What a send could not deliver is found out where the link is read. */
void
peers_signal(struct channel *ch, unsigned signal)
{
	struct err err;

	if (ch->state == CHANNEL_VERB && (signal == SIGINT || signal == SIGTERM)) {
		control_interrupt(ch);
		return;
	}
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
on_refused(struct channel *ch, uint32_t code, struct str why, struct str hint)
{
	struct conn *c = ch->conn;

	if (ch->state != CHANNEL_ASKED)
		return;
	if (c->keeper == ch->keeper && code == ERR_AGAIN)
		c->keeper = NULL; /* ask the manager which one is next */
	ch->keeper = NULL;
	if (code != ERR_AGAIN) {
		peers_fail(ch, err_from_number(code), why, hint);
		return;
	}
	channel_enter(ch, CHANNEL_WANTED);
	if (ch->tries >= CALL_TRIES_AT_ONCE)
		manager_link_ask_later(c);
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

/* One of this keeper's, and no forward: that has no call, and a listener not even a channel of SSH. */
static struct channel *
find_call(const struct keeper_link *k, uint32_t number)
{
	struct channel *ch = channel_find(k->conn, number);
	return ch && ch->keeper == k && !ch->forward ? ch : NULL;
}

static void
on_keeper_message(struct keeper_link *k)
{
	struct message *m = &k->wire.message;
	struct channel *ch;

	switch ((int)m->id) { /* int: the enum has every message there is */
	case MSG_call_started:
		if ((ch = find_call(k, m->call_started.channel)))
			on_started(ch, &k->wire);
		return;
	case MSG_call_joined:
		if ((ch = find_call(k, m->call_joined.channel)))
			on_joined(ch, &k->wire);
		return;
	case MSG_call_piped:
		if ((ch = find_call(k, m->call_piped.channel)))
			piped_started(ch, &k->wire);
		return;
	case MSG_call_refused:
		if ((ch = channel_find(k->conn, m->call_refused.channel)) && ch->keeper == k)
			on_refused(ch, m->call_refused.code, m->call_refused.why,
				   m->call_refused.hint);
		return;
	case MSG_forward_failed:
		if ((ch = channel_find(k->conn, m->forward_failed.request)) && ch->keeper == k)
			on_refused(ch, m->forward_failed.code, m->forward_failed.why,
				   m->forward_failed.hint);
		return;
	case MSG_forward_opened:
		if ((ch = channel_find(k->conn, m->forward_opened.request)) && ch->keeper == k)
			forward_opened(ch, &k->wire);
		return;
	case MSG_forward_listening:
		if ((ch = channel_find(k->conn, m->forward_listening.request)) && ch->keeper == k)
			forward_listening(ch, &m->forward_listening);
		return;
	case MSG_forward_accepted:
		if (m->forward_accepted.request == 0) {
			forward_agent_accepted(k);
			return;
		}
		if ((ch = channel_find(k->conn, m->forward_accepted.request)) && ch->keeper == k)
			forward_accepted(ch);
		return;
	case MSG_call_ended:
		if ((ch = find_call(k, m->call_ended.channel)))
			on_ended(ch, &m->call_ended);
		return;
	case MSG_call_output_end:
		if ((ch = channel_find(k->conn, m->call_output_end.channel)) && ch->keeper == k) {
			/* A client that has ended stdin too would close the channel (OpenSSH's
			 * ControlMaster does), and no exit status can follow that in libssh. */
			if (ch->client_eof)
				return;
			ch->out.closed_at = m->call_output_end.journal_bytes;
			conn_ready(ch);
		}
		return;
	case MSG_call_notice:
		if ((ch = find_call(k, m->call_notice.channel)))
			on_notice(ch, m->call_notice.text);
		return;
	case MSG_manager_link:
		manager_link_adopt(k->conn, fd_steal(&m->fds[0]));
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
	if (c->keeper == k) {
		c->keeper = NULL;
		c->agent = AGENT_UNKNOWN; /* its socket was that keeper's */
	}
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
		if (ch->forward && ch->forward->kind == FORWARD_LISTEN) {
			ch->tries = 0;
			channel_enter(ch, CHANNEL_OPEN); /* wanted of the next one, but it wants none */
		} else if (ch->state == CHANNEL_LIVE && !ch->end_known) {
			ch->lost = true;
			ch->out.follow = false;
			ch->in.waits = false;
			flow_end_input(ch);
			conn_ready(ch);
		} else if (ch->state == CHANNEL_ASKED) {
			peers_fail(ch, ERR_UNAVAILABLE,
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

/* ---- the manager names one ---- */

void
peers_meet(struct conn *c, struct wire *w)
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
			manager_link_ask_later(c); /* it has ended since, and was asked nothing */
		else
			manager_link_fail_wanted(c, err.code, str_of(err.why), STR_LIT(""));
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
		if (ch->forward && ch->forward->kind == FORWARD_LISTEN && ch->state == CHANNEL_OPEN)
			channel_enter(ch, CHANNEL_WANTED);
		if (ch->state != CHANNEL_WANTED || c->keeper != k)
			continue;
		if (ch->pty && notice.len && ch->tries == 0) {
			channel_text(ch, TEXT_OUT, notice);
			channel_text(ch, TEXT_OUT, STR_LIT("\n"));
		}
		start_call(ch);
	}
}

void
peers_wait(struct conn *c, uint64_t until_ns)
{
	enum { LINKS_MAX = 16 };
	struct pollfd fds[LINKS_MAX];
	nfds_t n = 0;
	const uint64_t now = time_now_ns();

	if (wire_is_open(&c->manager))
		fds[n++] = (struct pollfd){.fd = c->manager.fd, .events = POLLIN};
	for (struct keeper_link *k = c->keepers; k && n < LINKS_MAX; k = k->next)
		fds[n++] = (struct pollfd){.fd = k->wire.fd, .events = POLLIN};
	if (now >= until_ns || poll(fds, n, (int)((until_ns - now) / NS_PER_MS) + 1) <= 0)
		return;
	manager_link_read(c);
	for (struct keeper_link *k = c->keepers, *next; k; k = next) {
		next = k->next;
		on_keeper(k);
	}
}

void
peers_close(struct conn *c)
{
	while (c->keepers)
		drop_keeper(c->keepers);
}
