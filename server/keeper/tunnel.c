/* Forwards of SSH (RFC 4254, section 7): connections into the session's network and listeners in it, on
 * behalf of a conn. The sockets are made inside by init (sockets.h) and go to the conn, which moves the
 * bytes.
 *
 *  1. what a grant may is the manager's word (grant_terms), never the conn's;
 *  2. a request is answered once; its end, and the end of its link, cancels or closes what it has;
 *  3. a listener is on loopback alone, whatever address was asked for, as sshd without GatewayPorts;
 *  4. what a key may reach is judged by the host as it was asked for, before its name is resolved:
 *     an address that a name leads to is permitted because the name is, never the other way round;
 *  5. a name's addresses are tried one after the other, RESOLVE_MOST at most;
 *  6. each is recorded: what was asked, at which address, by whom, and what came of it. Where the manager is
 *     away and the spool fills, none is opened, and no refusal takes the room that the ends of calls need. */
#include "keeper.h"

#include "base/fd.h"
#include "base/guard.h"
#include "base/log.h"
#include "base/time.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define OPEN_MAX_NS   (30 * NS_PER_S)
#define TRY_MAX_NS    (10 * NS_PER_S) /* where there is another address */
#define LISTEN_MAX_NS (5 * NS_PER_S)

enum {
	TUNNELS_MAX = 512,     /* of one session: on their way, and listeners */
	ACCEPTS_AT_ONCE = 16,
	LISTENERS_MAX = 2,     /* ::1 behind 127.0.0.1 */
	TRIES_MAX = RESOLVE_MOST,
};

struct listener {
	struct tunnel *tunnel;
	int fd; /* owned, -1: none */
	struct watch watch;
};

struct tunnel {
	struct tunnel *next;
	struct grant *grant; /* lent */
	uint32_t number;     /* the conn's */
	bool listens;
	char host[257], origin[65];
	uint16_t port;
	struct socket_wish wishes[TRIES_MAX]; /* to be tried in this order; listeners: all that can be */
	size_t n_wishes, at;
	uint32_t asked, resolving; /* the request to init that is under way, 0: none */
	bool resolved;             /* host is a name of inside, and the wishes what it leads to */
	struct listener listeners[LISTENERS_MAX];
	bool agent; /* its socket is spill/host, of the manager's making */
	bool gone;  /* off the list */
};

/* ---- life ---- */

static void
free_later(void *ctx)
{
	free(ctx);
}

/* Off the list, with all that it has. */
static void
drop(struct tunnel *t)
{
	struct keeper *k = t->grant->keeper;

	if (t->gone)
		return;
	t->gone = true;
	for (struct tunnel **at = &k->tunnels; *at; at = &(*at)->next)
		if (*at == t) {
			*at = t->next;
			break;
		}
	k->n_tunnels--;
	if (t->asked)
		sockets_cancel(&k->sockets, t->asked);
	if (t->resolving)
		resolve_cancel(&k->resolver, t->resolving);
	for (size_t i = 0; i < LISTENERS_MAX; i++) {
		watch_remove(&t->listeners[i].watch);
		guard_close(&t->listeners[i].fd);
	}
	if (t->agent)
		unlinkat(k->fds[KEEPER_SPILL], t->host, 0);
	loop_defer(&k->loop, free_later, t);
}

/* " (10.0.0.1)": the address that a name has led to, the last that was tried. */
static void
say_address(const struct tunnel *t, char *out, size_t n)
{
	char text[INET6_ADDRSTRLEN] = "?";

	out[0] = '\0';
	if (!t->resolved)
		return;
	const struct socket_wish *w = &t->wishes[t->at < t->n_wishes ? t->at : t->n_wishes - 1];
	inet_ntop(w->family == 6 ? AF_INET6 : AF_INET, w->address, text, sizeof text);
	snprintf(out, n, " (%s)", text);
}

static void
record(const struct tunnel *t, const char *result)
{
	char what[CALL_COMMAND_BYTES], address[INET6_ADDRSTRLEN + 4];

	if (!record_has_half(&t->grant->keeper->spool))
		return;
	say_address(t, address, sizeof address);
	snprintf(what, sizeof what, "%s %s%s%s:%u%s%s%s: %s", t->listens ? "listen" : "connect",
		 strchr(t->host, ':') ? "[" : "", t->host, strchr(t->host, ':') ? "]" : "", t->port,
		 address, t->origin[0] ? " for " : "", t->origin, result);
	struct msg_call_record r = {
	    .kind = STR_LIT("forward"),
	    .principal = str_of(t->grant->principal),
	    .command = str_of(what),
	    .time_ns = time_real_ns(),
	};
	keeper_record(t->grant->keeper, &r);
}

/* Says why there is none, and forgets it. */
static void
refuse(struct tunnel *t, const struct err *why)
{
	struct err err;

	record(t, why->why);
	if (!t->grant->dead &&
	    wire_send(&t->grant->conn, forward_failed, &err, .request = t->number,
		      .code = (uint32_t)why->code, .why = str_of(why->why),
		      .hint = str_of(why->hint)) < 0)
		grant_cut_later(t->grant, &err);
	drop(t);
}

/* ---- addresses ---- */

static const uint8_t loopback4[4] = {127, 0, 0, 1};
static const uint8_t loopback6[16] = {[15] = 1};

static void
wish(struct tunnel *t, unsigned family, const void *address)
{
	struct socket_wish *w = &t->wishes[t->n_wishes++];

	*w = (struct socket_wish){.action = t->listens ? OPEN_LISTEN : OPEN_CONNECT,
				  .family = family,
				  .port = t->port};
	memcpy(w->address, address, family == 6 ? 16 : 4);
}

/* An address, or a name of the session itself. False: a name that must be resolved inside. */
static bool
fill_wishes(struct tunnel *t)
{
	const struct keeper *k = t->grant->keeper;
	uint8_t address[16];

	if (t->listens || !t->host[0] || strcmp(t->host, "localhost") == 0 ||
	    strcmp(t->host, k->hostname) == 0) {
		wish(t, 4, loopback4);
		wish(t, 6, loopback6);
	} else if (inet_pton(AF_INET, t->host, address) == 1) {
		wish(t, 4, address);
	} else if (inet_pton(AF_INET6, t->host, address) == 1) {
		wish(t, 6, address);
	}
	return t->n_wishes > 0;
}

static bool
is_permitted(const struct grant *g, const struct tunnel *t)
{
	return t->listens ? allowances_may_listen(&g->allow, str_of(t->host), t->port)
			  : allowances_may_open(&g->allow, str_of(t->host), t->port);
}

static int
check(const struct tunnel *t, struct err *err)
{
	const struct grant *g = t->grant;
	const struct keeper *k = g->keeper;
	const uint32_t right = t->listens ? FORWARD_LISTENS : FORWARD_CONNECTS;

	if (k->read_only)
		return err_set(err, ERR_DENIED,
			       "a snapshot is only read: there is nothing to forward to");
	if (!(g->forwards & right))
		return err_set(err, ERR_DENIED, "this key may not forward");
	if (!is_permitted(g, t))
		return err_set(err, ERR_DENIED, "this key may not %s %.64s:%u",
			       t->listens ? "listen at" : "connect to", t->host, t->port);
	if (!record_has_half(&k->spool))
		return err_set(err, ERR_AGAIN, "the records of this session wait for the manager");
	if (k->ended || k->held || k->pause.state == PAUSE_KILLING || !wire_is_open(&k->init))
		return err_set(err, ERR_AGAIN, "the session is pausing");
	if (k->n_tunnels > TUNNELS_MAX)
		return err_set(err, ERR_UNAVAILABLE, "%u forwards of this session already",
			       k->n_tunnels - 1);
	return 0;
}

static struct tunnel *
begin(struct grant *g, uint32_t number, struct str host, uint32_t port, bool listens)
{
	struct tunnel *t = try_new(1, sizeof *t);
	struct err err;

	if (!t)
		return NULL;
	t->grant = g;
	t->number = number;
	t->listens = listens;
	t->port = (uint16_t)port;
	(void)!str_copy(host, t->host, sizeof t->host, &err); /* the row bounds it */
	for (size_t i = 0; i < LISTENERS_MAX; i++)
		t->listeners[i] = (struct listener){.tunnel = t, .fd = -1};
	t->next = g->keeper->tunnels;
	g->keeper->tunnels = t;
	g->keeper->n_tunnels++;
	return t;
}

static int
no_memory(struct grant *g, uint32_t number, struct err *err)
{
	return wire_send(&g->conn, forward_failed, err, .request = number,
			 .code = ERR_UNAVAILABLE, .why = STR_LIT("no memory for a forward"));
}

/* ---- connections ---- */

static void try_next(struct tunnel *t, const struct err *last);

static void
on_connected(void *ctx, const int *take_fds, size_t n, const struct err *failure)
{
	struct tunnel *t = ctx;
	struct err err;

	(void)n;
	t->asked = 0;
	if (failure) {
		t->at++;
		try_next(t, failure);
		return;
	}
	int fd = take_fds[0];
	const struct msg_forward_opened body = {.request = t->number};
	record(t, "opened");
	if (wire_send_fds(&t->grant->conn, MSG_forward_opened, &body, &fd, 1, &err) < 0)
		grant_cut_later(t->grant, &err);
	guard_close(&fd);
	drop(t);
}

static void
try_next(struct tunnel *t, const struct err *last)
{
	struct keeper *k = t->grant->keeper;
	struct err err;

	if (t->at == t->n_wishes) {
		refuse(t, last);
		return;
	}
	const uint64_t most_ns = t->at + 1 < t->n_wishes ? TRY_MAX_NS : OPEN_MAX_NS;
	if (sockets_open(&k->sockets, &t->wishes[t->at], 1, time_now_ns() + most_ns, on_connected,
			 t, &t->asked, &err) < 0)
		refuse(t, &err);
}

static void
on_resolved(void *ctx, const struct resolve_address *found, size_t n, const struct err *failure)
{
	struct tunnel *t = ctx;

	t->resolving = 0;
	if (failure) {
		refuse(t, failure);
		return;
	}
	t->resolved = true;
	for (size_t i = 0; i < n; i++)
		wish(t, found[i].family, found[i].bytes);
	try_next(t, NULL);
}

static int
resolve(struct tunnel *t, struct err *err)
{
	struct keeper *k = t->grant->keeper;

	if (!resolve_is_name(str_of(t->host)))
		return err_set(err, ERR_USAGE, "%.64s is neither an address nor a host name",
			       t->host);
	return resolve_ask(&k->resolver, str_of(t->host), k->uid, k->gid, on_resolved, t,
			   &t->resolving, err);
}

int
tunnel_open(struct grant *g, const struct msg_forward_open *m, struct err *err)
{
	struct tunnel *t = begin(g, m->request, m->host, m->port, false);
	struct err why;

	if (!t)
		return no_memory(g, m->request, err);
	(void)!str_copy(m->origin, t->origin, sizeof t->origin, &why);
	if (m->port < 1 || m->port > 65535)
		err_set(&why, ERR_USAGE, "no such port");
	else if (check(t, &why) == 0) {
		if (fill_wishes(t)) {
			try_next(t, NULL);
			return 0;
		}
		if (resolve(t, &why) == 0)
			return 0;
	}
	refuse(t, &why);
	return 0;
}

/* ---- listeners ---- */

static void
hand_over(struct tunnel *t, int take_fd, const struct sockaddr_storage *peer)
{
	char origin[INET6_ADDRSTRLEN] = "";
	const struct sockaddr_in *v4 = (const void *)peer;
	const struct sockaddr_in6 *v6 = (const void *)peer;
	const bool is6 = peer->ss_family == AF_INET6;
	struct err err;

	if (peer->ss_family != AF_UNIX) /* an agent's has none */
		inet_ntop(is6 ? AF_INET6 : AF_INET, is6 ? (const void *)&v6->sin6_addr : &v4->sin_addr,
		  origin, sizeof origin);
	const struct msg_forward_accepted body = {
	    .request = t->number,
	    .origin = str_of(origin),
	    .origin_port = ntohs(is6 ? v6->sin6_port : v4->sin_port),
	};
	if (wire_send_fds(&t->grant->conn, MSG_forward_accepted, &body, &take_fd, 1, &err) < 0)
		grant_cut_later(t->grant, &err);
	guard_close(&take_fd);
}

static void
on_incoming(void *ctx, uint32_t events)
{
	struct listener *l = ctx;
	struct sockaddr_storage peer = {0};

	(void)events;
	for (int i = 0; i < ACCEPTS_AT_ONCE && !l->tunnel->grant->dead; i++) {
		socklen_t n = sizeof peer;
		guard_begin();
		const int fd = accept4(l->fd, (struct sockaddr *)&peer, &n, SOCK_CLOEXEC | SOCK_NONBLOCK);
		guard_end();
		if (fd < 0)
			return; /* nobody any more; or no fd is free: it waits in the backlog */
		hand_over(l->tunnel, fd, &peer);
	}
}

static void listen_next(struct tunnel *t);

static int
take_listener(struct tunnel *t, int take_fd, struct err *err)
{
	struct sockaddr_storage own;
	socklen_t n = sizeof own;
	struct listener *l = &t->listeners[t->at];

	l->fd = take_fd;
	if (getsockname(l->fd, (struct sockaddr *)&own, &n) < 0)
		return err_sys(err, errno, "read the port of a listener");
	t->port = ntohs(own.ss_family == AF_INET6 ? ((const struct sockaddr_in6 *)(const void *)&own)->sin6_port
						  : ((const struct sockaddr_in *)(const void *)&own)->sin_port);
	return watch_add(&t->grant->keeper->loop, &l->watch, l->fd, EPOLLIN, on_incoming, l, err);
}

/* The first one decides; without the second, which takes the port of the first, it listens all the same
 * (a session without IPv6). */
static void
on_listening(void *ctx, const int *take_fds, size_t n, const struct err *failure)
{
	struct tunnel *t = ctx;
	struct err err;

	(void)n;
	t->asked = 0;
	if (!failure && take_listener(t, take_fds[0], &err) < 0)
		failure = &err;
	if (failure && t->at == 0) {
		refuse(t, failure);
		return;
	}
	if (++t->at < t->n_wishes) {
		t->wishes[t->at].port = t->port;
		listen_next(t);
		return;
	}
	record(t, "listening");
	if (wire_send(&t->grant->conn, forward_listening, &err, .request = t->number,
		      .port = t->port) < 0)
		grant_cut_later(t->grant, &err);
}

static void
listen_next(struct tunnel *t)
{
	struct err err;

	if (sockets_open(&t->grant->keeper->sockets, &t->wishes[t->at], 1,
			 time_now_ns() + LISTEN_MAX_NS, on_listening, t, &t->asked, &err) < 0)
		refuse(t, &err);
}

int
tunnel_listen(struct grant *g, const struct msg_forward_listen *m, struct err *err)
{
	struct tunnel *t = begin(g, m->request, m->host, m->port, true);
	struct err why;

	if (!t)
		return no_memory(g, m->request, err);
	if (m->port > 65535)
		err_set(&why, ERR_USAGE, "no such port");
	else if (check(t, &why) == 0 && fill_wishes(t)) {
		listen_next(t);
		return 0;
	}
	refuse(t, &why);
	return 0;
}

/* ---- the agent of the client ---- */

void
tunnel_agent(struct grant *g, struct str name, int take_fd)
{
	struct tunnel *t = begin(g, 0, name, 0, true);
	struct err err;

	if (!t) {
		close(take_fd);
		return;
	}
	t->agent = true;
	t->listeners[0].fd = take_fd;
	if (watch_add(&g->keeper->loop, &t->listeners[0].watch, take_fd, EPOLLIN, on_incoming,
		      &t->listeners[0], &err) < 0) {
		log_err(&err, "listen for an agent");
		drop(t);
	}
}

void
tunnel_sweep(struct keeper *k)
{
	const int fd = openat(k->fds[KEEPER_SPILL], ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);

	if (!dir) { /* an engine that shows none */
		if (fd >= 0)
			close(fd);
		return;
	}
	for (const struct dirent *e; (e = readdir(dir));)
		if (e->d_type == DT_SOCK)
			unlinkat(dirfd(dir), e->d_name, 0);
	closedir(dir);
}

/* ---- begin and ends ---- */

void
tunnel_init(struct keeper *k)
{
	sockets_init(&k->sockets, &k->loop, &k->init);
	resolve_init(&k->resolver, &k->loop, &k->init);
}

void
tunnel_init_gone(struct keeper *k, const struct err *why)
{
	resolve_end(&k->resolver, why);
	sockets_end(&k->sockets, why);
}

void
tunnel_leave(struct keeper *k, const struct grant *g, const uint32_t *number)
{
	for (struct tunnel *t = k->tunnels, *next; t; t = next) {
		next = t->next;
		if (t->grant == g && (!number || t->number == *number))
			drop(t);
	}
}
