/* conn: speaks SSH with one client that nobody trusts.
 *   holds      the client's socket, one socket to the manager, one to each keeper it was granted,
 *              and of each of its calls: stdin's write end, the journal for reading, its growth
 *   may        read, write, wait, allocate, get random bytes
 *   never      opens a path, starts a process, learns of another connection
 *   if taken   gains what messages.def lets a conn ask, and nothing else
 *
 * Forked by the zygote (zygote.c), which this executable is when the manager starts it. Reads no byte of the
 * client before it is confined. */
#include "conn.h"

#include "base/fd.h"
#include "base/log.h"
#include "base/time.h"
#include "confine.h"
#include "conn/zygote.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/tcp.h> /* a newer struct tcp_info than netinet/tcp.h has */
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	SETUP_S = 10,
	READS_MAX = 64, /* of 4 KiB each: what one turn takes from the socket */
	STEPS_MAX = 64, /* of channels, before the socket is looked at again */
	LAST_WORDS_S = 30, /* how long a keeper that is busy is waited for at the end */
	ALIVE_S = 15,
	ALIVE_MISSED_MAX = 4,
	CLOSING_S = 15,         /* without a byte received: a slow reader opens its window rarely */
	PACKET_COST_BYTES = 38, /* of framing, padding and MAC: an estimate, at most that much */
};

void
conn_end(struct conn *c, const char *why)
{
	if (!c->ended && why)
		log_line("%s", why);
	c->ended = true;
}

/* ---- the two queues of channels ---- */

void
conn_forget(struct channel *ch)
{
	struct conn *c = ch->conn;
	const bool stalled = ch->queue == QUEUE_STALLED;
	struct channel **pp = stalled ? &c->stalled : &c->ready;

	if (ch->queue == QUEUE_NONE)
		return;
	while (*pp != ch) /* both lists are short */
		pp = &(*pp)->queue_next;
	*pp = ch->queue_next;
	if (!*pp && stalled)
		c->stalled_tail = pp;
	else if (!*pp)
		c->ready_tail = pp;
	ch->queue = QUEUE_NONE;
}

void
conn_ready(struct channel *ch)
{
	struct conn *c = ch->conn;

	if (ch->queue == QUEUE_READY)
		return;
	conn_forget(ch); /* it has something new to do */
	ch->queue = QUEUE_READY;
	ch->queue_next = NULL;
	*c->ready_tail = ch;
	c->ready_tail = &ch->queue_next;
}

void
conn_stall(struct channel *ch, uint64_t progress)
{
	struct conn *c = ch->conn;

	if (ch->queue != QUEUE_NONE) /* a callback has found work for it meanwhile */
		return;
	ch->queue = QUEUE_STALLED;
	ch->stalled_at = progress;
	ch->queue_next = NULL;
	*c->stalled_tail = ch;
	c->stalled_tail = &ch->queue_next;
}

static struct channel *
take_ready(struct conn *c)
{
	struct channel *ch = c->ready;

	if (!ch)
		return NULL;
	c->ready = ch->queue_next;
	if (!c->ready)
		c->ready_tail = &c->ready;
	ch->queue = QUEUE_NONE;
	return ch;
}

uint64_t
conn_progress(const struct conn *c)
{
	return c->packet_count.in_packets + c->socket_count.out_bytes;
}

/* Puts back those that may go on now: the client has read, or said something. */
static void
wake_stalled(struct conn *c)
{
	const uint64_t progress = conn_progress(c);

	if (!c->stalled || conn_is_blocked(c))
		return;
	for (struct channel *ch = c->stalled, *next; ch; ch = next) {
		next = ch->queue_next;
		if (ch->stalled_at != progress)
			conn_ready(ch);
	}
}

/* ---- the client's socket ---- */

/* libssh counts what it was given and what the socket took; framing is estimated, and compression is
 * not known. So the difference is measured from the last moment when nothing was held. */
static uint64_t
given(const struct conn *c)
{
	return c->packet_count.out_bytes + PACKET_COST_BYTES * c->packet_count.out_packets -
	       c->socket_count.out_bytes;
}

bool
conn_is_blocked(struct conn *c)
{
	if (ssh_get_status(c->ssh) & SSH_WRITE_PENDING)
		return true;
	c->queued_base = given(c);
	return false;
}

/* Most clients leave Nagle's algorithm on: a late ACK of ours costs them 40 ms. Not sticky. */
static void
ack_at_once(const struct conn *c)
{
	const int one = 1;
	setsockopt(c->fd, IPPROTO_TCP, TCP_QUICKACK, &one, sizeof one); /* no TCP: no matter */
}

static void
on_client(void *ctx, uint32_t events)
{
	struct conn *c = ctx;

	(void)events;
	c->ssh_ready = true;
}

/* For the log: what the client did wrong; that it left, only where it had something to wait for. */
static const char *
why_gone(const struct conn *c)
{
	const char *error = ssh_get_error(c->ssh);

	if (ssh_get_error_code(c->ssh) == SSH_FATAL && !strstr(error, "SSH_MSG_DISCONNECT") &&
	    strncmp(error, "Socket error", 12) != 0)
		return error;
	return c->channels ? "the client is gone" : NULL;
}

static void
pump(struct conn *c)
{
	int result = SSH_OK;

	c->ssh_ready = false;
	for (int i = 0; i < READS_MAX && result != SSH_AGAIN && !c->ended; i++) {
		result = ssh_event_dopoll(c->event, 0);
		if (result == SSH_ERROR)
			conn_end(c, why_gone(c));
	}
	ack_at_once(c);
}

/* libssh closes the socket where it finds it broken, which may be within any of its calls: then no event
 * of it comes any more. */
static bool
is_gone(const struct conn *c)
{
	return (ssh_get_status(c->ssh) & (SSH_CLOSED | SSH_CLOSED_ERROR)) || !ssh_is_connected(c->ssh);
}

/* ---- timers ---- */

static void
on_login_late(void *ctx)
{
	conn_end(ctx, "did not log in in time");
}

/* Any packet is a sign of life. A keepalive is sent by every second call of libssh's function: the
 * one in between collects the answer, and says AGAIN while there is none. */
static void
on_alive(void *ctx)
{
	struct conn *c = ctx;

	timer_set(&c->loop, &c->alive_timer, time_now_ns() + ALIVE_S * NS_PER_S, on_alive, c);
	if (c->packet_count.in_packets != c->alive_packets)
		c->alive_missed = 0;
	else if (++c->alive_missed > ALIVE_MISSED_MAX)
		conn_end(c, "the client does not answer");
	c->alive_packets = c->packet_count.in_packets;
	if (!c->proven || c->ended || conn_is_blocked(c))
		return;
	if (ssh_send_keepalive(c->ssh) != SSH_AGAIN)
		ssh_send_keepalive(c->ssh);
}

/* Bytes that the client's kernel has acknowledged. */
static uint64_t
received(const struct conn *c)
{
	struct tcp_info info = {0};
	socklen_t n = sizeof info;

	if (getsockopt(c->fd, IPPROTO_TCP, TCP_INFO, &info, &n) < 0)
		return c->socket_count.out_bytes; /* no TCP */
	return info.tcpi_bytes_acked;
}

/* A client drops what it has not yet written out when it is told that the connection ends, and the
 * exit status with it: who has just got the end of a call closes the connection itself. */
static bool
is_draining(const struct conn *c)
{
	return c->finished_ns && time_now_ns() < c->finished_ns + CLOSING_S * NS_PER_S;
}

static void on_closing_late(void *ctx);

/* As long as the client reads, it gets what is left for it. */
static void
wait_for_client(struct conn *c)
{
	c->closing_bytes = received(c);
	timer_set(&c->loop, &c->closing_timer, time_now_ns() + CLOSING_S * NS_PER_S,
		  on_closing_late, c);
}

static void
on_closing_late(void *ctx)
{
	struct conn *c = ctx;

	if (received(c) == c->closing_bytes)
		conn_end(c, c->channels ? "did not take its last words" : NULL);
	else
		wait_for_client(c);
}

void
conn_close(struct conn *c)
{
	if (c->closing)
		return;
	c->closing = true;
	for (struct channel *ch = c->channels; ch; ch = ch->next) {
		struct err err;
		if ((ch->state == CHANNEL_LIVE && (ch->end_known || ch->lost)) ||
		    (ch->state == CHANNEL_VERB && ch->end_known && !ch->out.follow))
			continue; /* it has an end of its own */
		err_set(&err, ERR_AGAIN, "the server is being restarted");
		err_what(&err, "%s", ch->verb ? ch->verb->name : "call");
		channel_fail(ch, &err);
	}
	wait_for_client(c);
}

/* ---- the loop ---- */

/* Everything that libssh may do by itself happens above the last line: it is what decides whether
 * the socket is watched for writing. */
static void
turn(struct conn *c)
{
	if (c->ssh_ready)
		pump(c);
	wake_stalled(c);
	for (int i = 0; i < STEPS_MAX && !c->ended; i++) {
		struct channel *ch = take_ready(c);
		if (!ch)
			break;
		channel_step(ch);
		stuck_step();
	}
	if (is_gone(c))
		conn_end(c, why_gone(c));
	if (c->ended)
		return;
	wake_stalled(c); /* a step may have received what another channel waited for */
	const bool blocked = conn_is_blocked(c);
	if (blocked && given(c) - c->queued_base > QUEUED_MAX_BYTES)
		conn_end(c, "the client asks much and reads nothing");
	if (c->closing && !c->channels && !blocked && !is_draining(c))
		c->ended = true;
	watch_want(&c->watch,
		   EPOLLIN | (ssh_get_poll_flags(c->ssh) & SSH_WRITE_PENDING ? EPOLLOUT : 0));
}

static int
run(struct conn *c, struct err *err)
{
	timer_set(&c->loop, &c->login_timer, c->login_until_ns, on_login_late, c);
	timer_set(&c->loop, &c->alive_timer, time_now_ns() + ALIVE_S * NS_PER_S, on_alive, c);
	if (watch_add(&c->loop, &c->watch, c->fd, EPOLLIN, on_client, c, err) < 0 ||
	    manager_link_watch(c, err) < 0)
		return -1;
	c->ssh_ready = true; /* what came with the last packet of the key exchange */
	while (!c->ended) {
		turn(c);
		if (c->ended)
			break;
		stuck_step();
		if (loop_turn(&c->loop, c->ready || c->ssh_ready ? 0 : UINT64_MAX, err) < 0)
			return -1;
	}
	return 0;
}

/* ---- the beginning ---- */

/* The manager's first message. */
static int
receive_setup(struct conn *c, struct err *err)
{
	const uint64_t until_ns = time_now_ns() + SETUP_S * NS_PER_S;

	if (wire_open(&c->manager, FD_MANAGER, ROLE_CONN, ROLE_MANAGER, PHASE_UNPROVEN, err) < 0 ||
	    auth_receive_setup(c, until_ns, err) < 0 ||
	    wire_recv_wait(&c->manager, until_ns, err) < 0)
		return err_add(err, "hear from the manager");
	if (c->manager.message.id != MSG_conn_setup)
		return err_set(err, ERR_CORRUPT, "the manager said something else than conn_setup");
	const struct msg_conn_setup *m = &c->manager.message.conn_setup;
	if (str_copy(m->host_key, c->host_key, sizeof c->host_key, err) < 0 ||
	    str_copy(m->peer, c->peer, sizeof c->peer, err) < 0)
		return -1;
	c->login_until_ns = time_now_ns() + m->login_ns;
	c->channels_max = m->channels_max;
	return 0;
}

static void
name_end(const struct sockaddr_storage *s, char host[INET6_ADDRSTRLEN], unsigned *port)
{
	if (s->ss_family == AF_INET6) {
		const struct sockaddr_in6 *a = (const void *)s;
		inet_ntop(AF_INET6, &a->sin6_addr, host, INET6_ADDRSTRLEN);
		*port = ntohs(a->sin6_port);
	} else {
		const struct sockaddr_in *a = (const void *)s;
		inet_ntop(AF_INET, &a->sin_addr, host, INET6_ADDRSTRLEN);
		*port = ntohs(a->sin_port);
	}
}

/* What sshd tells its commands of the connection: start-up files look there whether they run in
 * one, tools where the client is. */
static void
name_link(struct conn *c)
{
	struct sockaddr_storage theirs = {0}, ours = {0};
	socklen_t theirs_bytes = sizeof theirs, ours_bytes = sizeof ours;
	char host[INET6_ADDRSTRLEN] = "?", own[INET6_ADDRSTRLEN] = "?";
	unsigned port, own_port;

	if (getpeername(c->fd, (void *)&theirs, &theirs_bytes) < 0 ||
	    getsockname(c->fd, (void *)&ours, &ours_bytes) < 0)
		return; /* no socket of a network's */
	name_end(&theirs, host, &port);
	name_end(&ours, own, &own_port);
	const int n = snprintf(c->link_env, sizeof c->link_env,
			       "SSH_CONNECTION=%s %u %s %u%cSSH_CLIENT=%s %u %u", host, port, own,
			       own_port, 0, host, port, own_port);
	c->link_env_bytes = n > 0 ? (size_t)n + 1 : 0; /* with its NUL */
}

static int
init_ssh(struct conn *c, struct err *err)
{
	int no = 0;
	ssh_key key = NULL;

	if (ssh_pki_import_privkey_base64(c->host_key, NULL, NULL, NULL, &key) != SSH_OK)
		return err_set(err, ERR_CONFIG, "the host key cannot be read");
	explicit_bzero(c->host_key, sizeof c->host_key);
	ssh_bind bind = ssh_bind_new();
	c->ssh = ssh_new();
	if (!bind || !c->ssh)
		return err_set(err, ERR_UNAVAILABLE, "no memory for libssh");
	ssh_bind_options_set(bind, SSH_BIND_OPTIONS_PROCESS_CONFIG, &no); /* else it reads /etc/ssh */
	if (ssh_bind_options_set(bind, SSH_BIND_OPTIONS_IMPORT_KEY, key) != SSH_OK ||
	    ssh_bind_options_set(bind, SSH_BIND_OPTIONS_BANNER, "berth_" BERTH_VERSION) != SSH_OK ||
	    auth_set_algorithms(c, bind) != SSH_OK ||
	    ssh_bind_accept_fd(bind, c->ssh, c->fd) != SSH_OK)
		return err_set(err, ERR_INTERNAL, "libssh: %s", ssh_get_error(bind));
	ssh_bind_free(bind); /* the key was copied into the session */
	name_link(c);

	long timeout_s = 10; /* of the key exchange; the deadline of ours bounds it as well */
	ssh_options_set(c->ssh, SSH_OPTIONS_TIMEOUT, &timeout_s);
	auth_init(c);
	ssh_set_message_callback(c->ssh, channel_message, c);
	ssh_set_counters(c->ssh, &c->socket_count, &c->packet_count);
	const int one = 1;
	setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	if (fd_set_nonblock(c->fd, err) < 0) /* else a client that reads nothing stops us in send(2) */
		return -1;
	ssh_set_blocking(c->ssh, 0);
	return 0;
}

static int
exchange_keys(struct conn *c, struct err *err)
{
	for (;;) {
		const int result = ssh_handle_key_exchange(c->ssh);
		if (result == SSH_OK)
			return 0;
		if (result != SSH_AGAIN)
			return err_set(err, ERR_UNAVAILABLE, "%s", ssh_get_error(c->ssh));
		const uint64_t now = time_now_ns();
		if (now >= c->login_until_ns)
			return err_set(err, ERR_TIMEOUT, "not in time");
		const bool pending = ssh_get_poll_flags(c->ssh) & SSH_WRITE_PENDING;
		struct pollfd fds[] = {
		    {.fd = c->fd, .events = (short)(POLLIN | (pending ? POLLOUT : 0))},
		    {.fd = c->manager.fd}, /* for its end alone */
		};
		const uint64_t ms = (c->login_until_ns - now) / NS_PER_MS + 1;
		if (poll(fds, 2, ms > 60000 ? 60000 : (int)ms) < 0 && errno != EINTR)
			return err_sys(err, errno, "wait for the client");
		if (fds[1].revents)
			return err_set(err, ERR_AGAIN, "the manager is gone");
		ack_at_once(c);
	}
}

/* Three fds a channel; the soft limit may be 1024. */
static void
raise_files_limit(void)
{
	struct rlimit files;

	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
}

static int
serve(struct conn *c, uid_t uid, struct err *err)
{
	c->fd = FD_CLIENT;
	if (receive_setup(c, err) < 0 || init_ssh(c, err) < 0)
		return err_add(err, "begin");
	log_init("berth-conn", c->peer);
	raise_files_limit();
	stuck_watch();
	if (loop_init(&c->loop, err) < 0 || confine_conn(uid, uid, err) < 0)
		return err_add(err, "begin");
	if (exchange_keys(c, err) < 0)
		return err_add(err, "exchange keys");
	c->event = ssh_event_new();
	if (!c->event || ssh_event_add_session(c->event, c->ssh) != SSH_OK)
		return err_set(err, ERR_UNAVAILABLE, "no memory for libssh");
	return run(c, err);
}

/* What was written of stdin is known to nobody else. */
static void
send_last_words(struct conn *c)
{
	const uint64_t until_ns = time_now_ns() + LAST_WORDS_S * NS_PER_S;

	for (struct keeper_link *k = c->keepers; k; k = k->next)
		wire_send_rest(&k->wire, until_ns);
}

/* What is left of a connection: the kernel would free it too, leak checkers want it done. */
static void
release(struct conn *c)
{
	c->ended = true;
	while (c->channels) {
		peers_leave(c->channels);
		channel_drop(c->channels);
	}
	send_last_words(c);
	peers_close(c);
	manager_link_close(c);
	if (c->loop.batch) {
		watch_remove(&c->watch);
		loop_done(&c->loop);
	}
	if (c->event) {
		ssh_event_remove_session(c->event, c->ssh);
		ssh_event_free(c->event);
	}
	if (c->ssh) {
		ssh_disconnect(c->ssh);
		ssh_free(c->ssh);
	}
	free(c->piece);
	allowances_done(&c->allow);
	ssh_finalize();
}

int
main(int argc, char **argv)
{
	static struct conn c;
	struct err err;
	uid_t uid;

	log_init("berth-conn", "");
	signal(SIGPIPE, SIG_IGN);
	const int born = zygote_run(argc > 1 && strcmp(argv[1], ZYGOTE_AGAIN) == 0, &uid, &err);
	if (born < 0)
		log_err(&err, "zygote");
	if (born != 1)
		return born < 0 ? err_exit(err.code) : 0;
	c.ready_tail = &c.ready;
	c.stalled_tail = &c.stalled;
	c.piece = xnew(1, FLOW_PIECE_BYTES);
	const int result = serve(&c, uid, &err);
	if (result < 0)
		log_err(&err, "connection");
	release(&c);
	return result < 0 ? err_exit(err.code) : 0;
}
