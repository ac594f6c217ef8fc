/* Forwards (RFC 4254, section 7): a channel that is a TCP connection in the session's network, and
 * listeners there. The keeper says whether and gives sockets; the bytes are moved here, as those of calls
 * are: stdin's way into the socket, a subsystem's way out of it (flow.c, piped.c).
 *
 *  1. libssh wants its answer in the callback: the keeper is waited for, OPEN_WAIT at most, so that a
 *     client hears of a closed port as from sshd. Where it takes longer (a session that must be
 *     resumed, a host far away) the channel is accepted, and closed if there is nothing; so are those
 *     that follow for OPEN_REST;
 *  2. each half of a connection ends for itself; the channel is closed when both have;
 *  3. a listener is a channel without SSH's: it is asked for again when its session has a new keeper;
 *  4. a connection that was accepted inside is closed again when the client refuses it, or does not take
 *     it in time. The channel stays until the client has answered: libssh ends the connection over an
 *     answer for one that is gone;
 *  5. the end of the keeper's link is a connection's end, when what has come is read: a socket keeps the
 *     network of a session that is gone, and a key that was taken away moves nothing more. */
#include "conn.h"

#include "base/fd.h"
#include "base/log.h"
#include "base/time.h"

#include <stdlib.h>
#include <sys/socket.h>

#pragma GCC diagnostic ignored "-Wdeprecated-declarations" /* as in channel.c */

#define OPEN_WAIT_NS   (250 * NS_PER_MS)
#define OPEN_REST_NS   (5 * NS_PER_S)  /* after a wait in vain: nothing else moves while one waits */
#define LISTEN_WAIT_NS (10 * NS_PER_S) /* the port must be told: its session may have to be resumed */
#define TAKE_WAIT_NS   (30 * NS_PER_S)
#define ALONE_NS       (8 * NS_PER_S)

/* ---- a forward's life ---- */

static struct channel *
new_forward(struct conn *c, enum forward_kind kind, const char *host, int port)
{
	struct err err;
	struct channel *ch = host && port >= 0 && port <= 65535 ? channel_make(c) : NULL;

	if (!ch)
		return NULL;
	ch->forward = xnew(1, sizeof *ch->forward);
	*ch->forward = (struct forward){.kind = kind, .port = (uint32_t)port};
	if (str_copy(str_of(host), ch->forward->host, sizeof ch->forward->host, &err) == 0)
		return ch;
	channel_drop(ch);
	return NULL;
}

static bool
may_forward(const struct conn *c)
{
	return c->proven && !c->control && !c->closing && !c->ended;
}

/* Until it is answered, or a deadline. */
static void
wait_for_answer(struct channel *ch, uint64_t most_ns)
{
	const uint64_t until_ns = time_now_ns() + most_ns;
	struct conn *c = ch->conn;

	while ((ch->state == CHANNEL_WANTED || ch->state == CHANNEL_ASKED) && !c->ended &&
	       time_now_ns() < until_ns)
		peers_wait(c, until_ns);
}

static void
begin(struct channel *ch)
{
	channel_enter(ch, CHANNEL_WANTED);
	peers_start(ch);
}

int
forward_ask(struct channel *ch, struct err *err)
{
	const struct forward *f = ch->forward;

	if (f->kind == FORWARD_LISTEN)
		return wire_send(&ch->keeper->wire, forward_listen, err, .request = ch->number,
				 .host = str_of(f->host),
				 .port = f->bound_port ? f->bound_port : f->port);
	return wire_send(&ch->keeper->wire, forward_open, err, .request = ch->number,
			 .host = str_of(f->host), .port = f->port, .origin = str_of(f->origin),
			 .origin_port = f->origin_port);
}

/* ---- direct-tcpip ---- */

int
forward_take_open(struct conn *c, ssh_message m)
{
	struct err err;
	struct channel *ch =
	    may_forward(c)
		? new_forward(c, FORWARD_OPEN, ssh_message_channel_request_open_destination(m),
			      ssh_message_channel_request_open_destination_port(m))
		: NULL;

	if (!ch)
		return 1;
	const char *origin = ssh_message_channel_request_open_originator(m);
	if (origin && str_copy(str_of(origin), ch->forward->origin, sizeof ch->forward->origin, &err) < 0)
		ch->forward->origin[0] = '\0'; /* it is for the record alone */
	begin(ch);
	if (time_now_ns() >= c->forward_wait_from_ns)
		wait_for_answer(ch, OPEN_WAIT_NS);
	if (ch->state == CHANNEL_WANTED || ch->state == CHANNEL_ASKED)
		c->forward_wait_from_ns = time_now_ns() + OPEN_REST_NS;
	if (ch->state == CHANNEL_ENDING || channel_attach(ch) < 0) {
		channel_enter(ch, CHANNEL_ENDING); /* freed by its step: it stands in a queue */
		return 1;
	}
	ch->opened = true;
	ssh_message_channel_request_open_reply_accept_channel(m, ch->ssh);
	return 0;
}

/* ---- the socket ---- */

/* Its input is the client's bytes to it, its output what is read of it. */
static int
take_socket(struct channel *ch, int *fd, struct err *err)
{
	const struct linger off = {0}; /* whoever made it must not make our close wait */
	int copy = fd_dup(*fd, err);

	if (copy < 0)
		return -1;
	setsockopt(copy, SOL_SOCKET, SO_LINGER, &off, sizeof off);
	if (flow_begin_input(ch, &copy, err) < 0 || piped_begin(ch, fd, err) < 0) {
		fd_close(&copy);
		return -1;
	}
	return 0;
}

void
forward_opened(struct channel *ch, struct wire *w)
{
	struct err err;

	if (ch->state != CHANNEL_ASKED || !ch->forward || ch->forward->kind != FORWARD_OPEN)
		return;
	if (take_socket(ch, &w->message.fds[0], &err) < 0) {
		log_err(&err, "forward");
		channel_enter(ch, CHANNEL_ENDING);
		return;
	}
	channel_enter(ch, CHANNEL_LIVE);
}

/* ---- tcpip-forward ---- */

static struct channel *
find_listener(struct conn *c, const char *host, uint32_t port)
{
	for (struct channel *ch = c->channels; ch; ch = ch->next)
		if (ch->forward && ch->forward->kind == FORWARD_LISTEN &&
		    ch->state != CHANNEL_ENDING && strcmp(ch->forward->host, host) == 0 &&
		    (ch->forward->port == port || ch->forward->bound_port == port))
			return ch;
	return NULL;
}

static int
take_listen(struct conn *c, ssh_message m, const char *host, int port)
{
	struct channel *ch = new_forward(c, FORWARD_LISTEN, host, port);

	if (!ch)
		return 1;
	begin(ch);
	wait_for_answer(ch, LISTEN_WAIT_NS);
	if (ch->state != CHANNEL_LIVE) {
		peers_leave(ch);
		channel_enter(ch, CHANNEL_ENDING);
		return 1;
	}
	ssh_message_global_request_reply_success(m, (uint16_t)ch->forward->bound_port);
	return 0;
}

int
forward_take_request(struct conn *c, ssh_message m)
{
	const char *host = ssh_message_global_request_address(m);
	const int port = ssh_message_global_request_port(m);

	if (!may_forward(c) || !host)
		return 1;
	if (ssh_message_subtype(m) == SSH_GLOBAL_REQUEST_TCPIP_FORWARD)
		return take_listen(c, m, host, port);
	if (ssh_message_subtype(m) != SSH_GLOBAL_REQUEST_CANCEL_TCPIP_FORWARD)
		return 1;
	struct channel *ch = find_listener(c, host, (uint32_t)port);
	if (!ch)
		return 1;
	peers_leave(ch);
	channel_enter(ch, CHANNEL_ENDING);
	ssh_message_global_request_reply_success(m, (uint16_t)port);
	return 0;
}

void
forward_listening(struct channel *ch, const struct msg_forward_listening *m)
{
	if (ch->state != CHANNEL_ASKED || !ch->forward || ch->forward->kind != FORWARD_LISTEN)
		return;
	ch->forward->bound_port = m->port;
	channel_enter(ch, CHANNEL_LIVE);
}

static void
on_not_taken(void *ctx)
{
	channel_enter(ctx, CHANNEL_ENDING);
}

/* A channel of the client's for a connection that was accepted inside. */
static void
accept_channel(struct keeper_link *k, const char *host, uint32_t port, bool agent)
{
	const struct msg_forward_accepted *m = &k->wire.message.forward_accepted;
	struct channel *ch = new_forward(k->conn, FORWARD_ACCEPTED, host, (int)port);
	struct err err;

	if (!ch)
		return; /* more than this connection may have: closed again */
	ch->forward->agent = agent;
	ch->keeper = k;
	ch->forward->origin_port = m->origin_port;
	if (str_copy(m->origin, ch->forward->origin, sizeof ch->forward->origin, &err) < 0 ||
	    channel_attach(ch) < 0 || take_socket(ch, &k->wire.message.fds[0], &err) < 0) {
		channel_enter(ch, CHANNEL_ENDING);
		return;
	}
	timer_set(&ch->conn->loop, &ch->forward->opening, time_now_ns() + TAKE_WAIT_NS,
		  on_not_taken, ch);
	channel_enter(ch, CHANNEL_ASKED);
}

void
forward_accepted(struct channel *listener)
{
	const struct forward *l = listener->forward;

	if (listener->state == CHANNEL_LIVE && l && l->kind == FORWARD_LISTEN)
		accept_channel(listener->keeper, l->host, l->port ? l->port : l->bound_port, false);
}

/* ---- the client's agent ---- */

bool
forward_waits_for_agent(struct channel *ch)
{
	struct conn *c = ch->conn;
	struct err err;

	if (!ch->wants_agent)
		return false;
	if (c->agent == AGENT_UNKNOWN && wire_is_open(&c->manager) &&
	    wire_send(&c->manager, agent_want, &err, .seq = ch->number) == 0)
		c->agent = AGENT_ASKED;
	if (c->agent == AGENT_ASKED)
		return true;
	ch->wants_agent = false; /* it goes into the environment once */
	if (c->agent == AGENT_KNOWN && c->agent_path[0]) {
		buf_fmt(&ch->env, "SSH_AUTH_SOCK=%s", c->agent_path);
		buf_char(&ch->env, '\0');
	}
	return false;
}

void
forward_agent_ready(struct conn *c, const struct msg_agent_ready *m)
{
	struct err err;

	if (c->agent != AGENT_ASKED)
		return;
	c->agent = AGENT_KNOWN;
	if (str_copy(m->path, c->agent_path, sizeof c->agent_path, &err) < 0)
		c->agent_path[0] = '\0';
	for (struct channel *ch = c->channels; ch; ch = ch->next)
		if (ch->state == CHANNEL_WANTED && ch->wants_agent)
			peers_start(ch);
}

void
forward_agent_accepted(struct keeper_link *k)
{
	accept_channel(k, "", 0, true);
}

/* ---- what can be no forward ---- */

static void
on_alone(void *ctx)
{
	struct conn *c = ctx;

	if (!c->had_channel)
		conn_end(c, "it asked for a Unix socket, which is not forwarded, and for nothing else");
}

/* Else a client that came for nothing else (ssh -N -L 8000:/path) would sit there as if all were well. */
void
forward_refused(struct conn *c)
{
	if (c->proven && !c->had_channel && !c->idle_timer.slot)
		timer_set(&c->loop, &c->idle_timer, time_now_ns() + ALONE_NS, on_alone, c);
}

/* ---- steps ---- */

static void
end(struct channel *ch)
{
	timer_cancel(&ch->forward->opening);
	peers_leave(ch);
	channel_drop(ch);
}

/* Whoever connected inside need not wait for the client to answer. */
static void
let_go(struct channel *ch)
{
	flow_end_input(ch);
	watch_remove(&ch->out.watch);
	fd_close(&ch->out.pipe);
}

/* The client is asked to open a channel for what was accepted inside, and has not answered. */
static bool
is_unanswered(struct channel *ch)
{
	struct forward *f = ch->forward;

	if (f->kind != FORWARD_ACCEPTED || ch->opened || (!f->asked && ch->state == CHANNEL_ENDING))
		return false;
	f->asked = true;
	const int answer =
	    f->agent ? ssh_channel_open_auth_agent(ch->ssh)
		     : ssh_channel_open_reverse_forward(ch->ssh, f->host, (int)f->port, f->origin,
							(int)f->origin_port);
	if (answer == SSH_AGAIN)
		return true;
	ch->opened = answer == SSH_OK;
	timer_cancel(&f->opening);
	if (ch->state == CHANNEL_ASKED)
		channel_enter(ch, ch->opened ? CHANNEL_LIVE : CHANNEL_ENDING);
	return false;
}

/* Both halves are at their end, or the client has closed. */
static bool
is_over(const struct channel *ch)
{
	return ch->client_closed || ch->state == CHANNEL_ENDING ||
	       (ch->state == CHANNEL_LIVE && ch->in.fd < 0 && ch->out.finished && !ch->out.tail_len);
}

void
forward_step(struct channel *ch)
{
	struct conn *c = ch->conn;

	const uint64_t progress = conn_progress(c);
	if (is_unanswered(ch)) {
		if (ch->state == CHANNEL_ENDING)
			let_go(ch);
		conn_stall(ch, progress); /* a packet of the client's decides */
		return;
	}
	if (is_over(ch)) {
		end(ch);
		return;
	}
	if (ch->state != CHANNEL_LIVE)
		return;
	flow_input(ch);
	const enum flow flow = flow_output(ch);
	if (ch->out.finished && !ch->out.tail_len && !ch->forward->eof_sent) {
		ch->forward->eof_sent = true;
		ssh_channel_send_eof(ch->ssh);
	}
	if (is_over(ch) || flow == FLOW_MORE)
		conn_ready(ch);
	else if (flow == FLOW_STALLED)
		conn_stall(ch, progress);
}
