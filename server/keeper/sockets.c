/* Invariants
 *  1. a request ends once: all its sockets, a failure, its deadline, or sockets_cancel;
 *  2. what init says is a claim: each fd is looked at before it counts, an answer that nobody waits
 *     for is dropped, and its fd closed;
 *  3. nothing here reads, writes or accepts on a socket from inside: it could wait; closing it can
 * too, and is guarded;
 *  4. a callback may ask again: its own request is off the list by then. */
#include "sockets.h"

#include "base/fd.h"
#include "base/guard.h"
#include "base/log.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>

struct asked {
	struct asked *next;
	struct sockets *of;
	uint32_t first; /* the numbers of its sockets: first to first + n - 1 */
	size_t n, missing;
	struct socket_wish wishes[SOCKETS_MAX];
	int fds[SOCKETS_MAX]; /* owned, -1: not there yet */
	struct timer deadline;
	sockets_fn fn;
	void *ctx;
	char waits_for[SOCKETS_WORDS_BYTES];
};

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
	struct sockaddr_storage room;
};

/* ---- words ---- */

/* "127.0.0.1:80", "[::1]:80" */
static void
wish_format(const struct socket_wish *w, char *out, size_t n)
{
	char host[INET6_ADDRSTRLEN] = "?";

	inet_ntop(w->family == 6 ? AF_INET6 : AF_INET, w->address, host, sizeof host);
	snprintf(out, n, w->family == 6 ? "[%s]:%u" : "%s:%u", host, w->port);
}

static void
say_what(const struct socket_wish *w, char out[SOCKETS_WORDS_BYTES])
{
	static const char *const words[] = {
	    [OPEN_LISTEN] = "a listener on",
	    [OPEN_CONNECT] = "a connection to",
	};
	char text[INET6_ADDRSTRLEN + 10];

	if (w->action == OPEN_ROUTE) {
		snprintf(out, SOCKETS_WORDS_BYTES, "a route for every address inside");
		return;
	}
	wish_format(w, text, sizeof text);
	snprintf(out, SOCKETS_WORDS_BYTES, "%s %s inside", words[w->action], text);
}

const char *
sockets_wait_for(const struct sockets *s)
{
	return s->asked ? s->asked->waits_for : "";
}

/* ---- a request's life ---- */

void
sockets_init(struct sockets *s, struct loop *l, struct wire *init)
{
	*s = (struct sockets){.loop = l, .init = init, .next_number = 1};
}

static struct asked *
find(const struct sockets *s, uint32_t number)
{
	for (struct asked *a = s->asked; a; a = a->next)
		if (number - a->first < a->n)
			return a;
	return NULL;
}

/* Takes it off the list; it is freed when the turn ends. */
static void
detach(struct asked *a)
{
	struct sockets *s = a->of;

	for (struct asked **at = &s->asked; *at; at = &(*at)->next)
		if (*at == a) {
			*at = a->next;
			break;
		}
	s->on_the_way -= (uint32_t)a->n;
	timer_cancel(&a->deadline);
	loop_defer(s->loop, free, a);
}

static void
close_all(struct asked *a)
{
	for (size_t i = 0; i < a->n; i++)
		guard_close(&a->fds[i]);
}

/* Of those that init may still be at: connections, for the others are answered at once. */
static void
tell_init(const struct asked *a)
{
	struct err ignored; /* it is gone: then it forgets by itself */

	for (size_t i = 0; i < a->n; i++)
		if (a->wishes[i].action == OPEN_CONNECT && a->fds[i] < 0 &&
		    wire_is_open(a->of->init) &&
		    wire_send(a->of->init, init_open_cancel, &ignored,
			      .request = a->first + (uint32_t)i) < 0)
			return;
}

static void
fail(struct asked *a, const struct err *why)
{
	close_all(a);
	tell_init(a);
	detach(a);
	a->fn(a->ctx, NULL, 0, why);
}

static void
on_deadline(void *ctx)
{
	struct asked *a = ctx;
	struct err err;

	err_set(&err, ERR_TIMEOUT, "waited too long for %s", a->waits_for);
	fail(a, &err);
}

/* ---- asking ---- */

static int
check(const struct sockets *s, const struct socket_wish *wishes, size_t n, struct err *err)
{
	if (n == 0 || n > SOCKETS_MAX)
		return err_set(err, ERR_USAGE, "1 to %d sockets at once, not %zu", SOCKETS_MAX, n);
	for (size_t i = 0; i < n; i++) {
		const struct socket_wish *w = &wishes[i];
		if ((w->family != 4 && w->family != 6) || (unsigned)w->action > OPEN_ROUTE)
			return err_set(err, ERR_USAGE, "no such kind of socket");
		if (w->action == OPEN_CONNECT && (w->datagram || w->port == 0))
			return err_set(err, ERR_USAGE, "only streams are connected, to a port");
	}
	if (s->on_the_way + n > SOCKETS_ON_THE_WAY)
		return err_set(err, ERR_UNAVAILABLE, "%u sockets of this session are on their way",
			       s->on_the_way);
	return 0;
}

static int
send_wish(struct sockets *s, uint32_t number, const struct socket_wish *w, struct err *err)
{
	return wire_send(s->init, init_open, err, .request = number, .action = w->action,
			 .family = w->family, .type = w->datagram ? 2 : 1, .port = w->port,
			 .address = {(const char *)w->address, w->family == 6 ? 16 : 4});
}

int
sockets_open(struct sockets *s, const struct socket_wish *wishes, size_t n, uint64_t deadline_ns,
	     sockets_fn fn, void *ctx, uint32_t *out, struct err *err)
{
	if (check(s, wishes, n, err) < 0)
		return -1;
	if (s->next_number > UINT32_MAX - SOCKETS_MAX)
		s->next_number = 1; /* 2^32 sockets later none of those is on its way */
	struct asked *a = xnew(1, sizeof *a);
	*a = (struct asked){
	    .of = s, .first = s->next_number, .n = n, .missing = n, .fn = fn, .ctx = ctx};
	memcpy(a->wishes, wishes, n * sizeof *wishes);
	for (size_t i = 0; i < SOCKETS_MAX; i++)
		a->fds[i] = -1;
	say_what(&wishes[0], a->waits_for);
	for (size_t i = 0; i < n; i++)
		if (send_wish(s, a->first + (uint32_t)i, &wishes[i], err) < 0) {
			free(a); /* init is gone, and with it what it was asked before */
			return -1;
		}
	s->next_number += (uint32_t)n;
	s->on_the_way += (uint32_t)n;
	struct asked **at = &s->asked;
	while (*at)
		at = &(*at)->next;
	*at = a;
	timer_set(s->loop, &a->deadline, deadline_ns, on_deadline, a);
	if (out)
		*out = a->first;
	return 0;
}

void
sockets_cancel(struct sockets *s, uint32_t request)
{
	struct asked *a = find(s, request);

	if (!a)
		return;
	close_all(a);
	tell_init(a);
	detach(a);
}

/* ---- what init says ---- */

static int
option_of(int fd, int option)
{
	int value = -1;
	socklen_t n = sizeof value;
	return getsockopt(fd, SOL_SOCKET, option, &value, &n) < 0 ? -1 : value;
}

static bool
is_at(const union address *a, const struct socket_wish *w)
{
	const void *address = w->family == 6 ? (const void *)&a->v6.sin6_addr : &a->v4.sin_addr;
	const uint16_t port = ntohs(w->family == 6 ? a->v6.sin6_port : a->v4.sin_port);
	const bool any_port = w->action == OPEN_LISTEN && w->port == 0;

	return memcmp(address, w->address, w->family == 6 ? 16 : 4) == 0 &&
	       (any_port || port == w->port);
}

/* Whether it is what was asked for: kind, state, and the address that it has or leads to. */
static int
check_socket(int fd, const struct socket_wish *w, struct err *err)
{
	const int domain = w->family == 6 ? AF_INET6 : AF_INET;
	const int type = w->datagram ? SOCK_DGRAM : SOCK_STREAM;
	const bool listens = w->action == OPEN_LISTEN && !w->datagram;
	union address a = {0};
	socklen_t n = sizeof a;
	struct stat st;

	if (w->action == OPEN_ROUTE || fstat(fd, &st) < 0 || !S_ISSOCK(st.st_mode))
		return err_set(err, ERR_CORRUPT, "it is no socket");
	if (option_of(fd, SO_DOMAIN) != domain || option_of(fd, SO_TYPE) != type ||
	    option_of(fd, SO_PROTOCOL) != (w->datagram ? IPPROTO_UDP : IPPROTO_TCP))
		return err_set(err, ERR_CORRUPT, "it is a socket of another kind");
	if (option_of(fd, SO_ACCEPTCONN) != listens)
		return err_set(err, ERR_CORRUPT, listens ? "it does not listen" : "it listens");
	const int got =
	    w->action == OPEN_CONNECT ? getpeername(fd, &a.any, &n) : getsockname(fd, &a.any, &n);
	if (got < 0) /* a connection can have ended by now; what was said of it stands */
		return w->action == OPEN_CONNECT && errno == ENOTCONN
			   ? err_set(err, ERR_UNAVAILABLE, "it is not connected any more")
			   : err_sys(err, errno, "read its address");
	return is_at(&a, w) ? 0 : err_set(err, ERR_CORRUPT, "its address is another one");
}

void
sockets_opened(struct sockets *s, const struct msg_init_opened *m, int take_fd)
{
	__attribute__((cleanup(guard_close))) int fd = take_fd;
	struct asked *a = find(s, m->request);
	struct err err;

	if (!a || a->fds[m->request - a->first] >= 0)
		return; /* too late, said twice, or never asked for */
	const struct socket_wish *w = &a->wishes[m->request - a->first];
	if (check_socket(fd, w, &err) < 0) {
		char what[SOCKETS_WORDS_BYTES];
		say_what(w, what);
		if (err.code == ERR_CORRUPT)
			log_line("init sent what is not %s: %s", what, err.why);
		err_add(&err, "%s", what);
		fail(a, &err);
		return;
	}
	a->fds[m->request - a->first] = fd_steal(&fd);
	if (--a->missing)
		return;
	detach(a);
	a->fn(a->ctx, a->fds, a->n, NULL);
}

void
sockets_failed(struct sockets *s, const struct msg_init_open_failed *m)
{
	struct asked *a = find(s, m->request);
	char what[SOCKETS_WORDS_BYTES];
	struct err err;

	if (!a || a->fds[m->request - a->first] >= 0)
		return;
	const char *why = strerrordesc_np((int)(m->error & 0xfff)); /* a number of init's: any */
	say_what(&a->wishes[m->request - a->first], what);
	if (m->error == EOPNOTSUPP)
		why = "a session's init has no right to set routes";
	err_set(&err, ERR_UNAVAILABLE, "%s: %s", what,
		why && m->error ? why : "refused without a reason");
	fail(a, &err);
}

void
sockets_end(struct sockets *s, const struct err *why)
{
	while (s->asked)
		fail(s->asked, why);
}
