/* Invariants
 *  1. nothing here waits: a connection is begun and looked at when poll(2) says so;
 *  2. each init_open is answered by exactly one init_opened or init_open_failed;
 *  3. a socket that was sent is closed here: init keeps none but those still on their way;
 *  4. a deadline is the keeper's: it cancels, init counts no time. */
#include "opener.h"

#include "base/fd.h"

#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BACKLOG = 128 };

struct connecting {
	uint32_t request;
	int fd; /* owned; 0: a free place (0 is never a socket of ours) */
};

static struct connecting connects[OPENER_CONNECTS_MAX];

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

/* ---- answers ---- */

static int
say_opened(struct wire *w, uint32_t request, int fd, struct err *err)
{
	const struct msg_init_opened body = {.request = request};
	return wire_send_fds(w, MSG_init_opened, &body, &fd, 1, err);
}

static int
say_failed(struct wire *w, uint32_t request, int number, struct err *err)
{
	return wire_send(w, init_open_failed, err, .request = request, .error = (uint32_t)number);
}

/* ---- one socket ---- */

/* False: the fields do not name a socket. */
static bool
take_address(const struct msg_init_open *m, union address *out, socklen_t *len)
{
	*out = (union address){0};
	if (m->port > 65535 || (m->type != 1 && m->type != 2))
		return false;
	if (m->family == 4 && m->address.len == sizeof out->v4.sin_addr) {
		out->v4.sin_family = AF_INET;
		out->v4.sin_port = htons((uint16_t)m->port);
		memcpy(&out->v4.sin_addr, m->address.at, m->address.len);
		*len = sizeof out->v4;
		return true;
	}
	if (m->family == 6 && m->address.len == sizeof out->v6.sin6_addr) {
		out->v6.sin6_family = AF_INET6;
		out->v6.sin6_port = htons((uint16_t)m->port);
		memcpy(&out->v6.sin6_addr, m->address.at, m->address.len);
		*len = sizeof out->v6;
		return true;
	}
	return false;
}

static int
make_socket(const struct msg_init_open *m)
{
	const int type = m->type == 1 ? SOCK_STREAM : SOCK_DGRAM;
	return socket(m->family == 4 ? AF_INET : AF_INET6, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

/* A socket that listens, or -1 and errno. An IPv6 one leaves IPv4 alone: both can be asked for. */
static int
make_listener(const struct msg_init_open *m, const union address *a, socklen_t len)
{
	const int one = 1;
	auto_close int fd = make_socket(m);

	if (fd < 0)
		return -1;
	if (m->family == 6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one) < 0)
		return -1;
	if (m->type == 1 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0)
		return -1;
	if (bind(fd, &a->any, len) < 0 || (m->type == 1 && listen(fd, BACKLOG) < 0))
		return -1;
	return fd_steal(&fd);
}

static int
open_listener(struct wire *w, const struct msg_init_open *m, const union address *a, socklen_t len,
	      struct err *err)
{
	auto_close int fd = make_listener(m, a, len);
	return fd < 0 ? say_failed(w, m->request, errno, err) : say_opened(w, m->request, fd, err);
}

static struct connecting *
find_place(int fd, uint32_t request)
{
	for (int i = 0; i < OPENER_CONNECTS_MAX; i++) {
		struct connecting *c = &connects[i];
		if (fd == 0 ? c->fd == 0 : c->fd > 0 && c->request == request)
			return c;
	}
	return NULL;
}

static int
begin_connect(struct wire *w, const struct msg_init_open *m, const union address *a, socklen_t len,
	      struct err *err)
{
	struct connecting *c = find_place(0, 0);

	if (!c || find_place(-1, m->request))
		return say_failed(w, m->request, EAGAIN, err);
	auto_close int fd = make_socket(m);
	if (fd < 0)
		return say_failed(w, m->request, errno, err);
	if (connect(fd, &a->any, len) == 0)
		return say_opened(w, m->request, fd, err);
	if (errno != EINPROGRESS)
		return say_failed(w, m->request, errno, err);
	*c = (struct connecting){.request = m->request, .fd = fd_steal(&fd)};
	return 0;
}

/* ---- what init calls ---- */

int
opener_open(struct wire *w, struct err *err)
{
	const struct msg_init_open m = w->message.init_open;
	union address a;
	socklen_t len;

	if (m.action == OPEN_ROUTE)
		return say_failed(w, m.request, EOPNOTSUPP, err); /* no CAP_NET_ADMIN is left */
	if (m.action > OPEN_ROUTE || !take_address(&m, &a, &len) ||
	    (m.action == OPEN_CONNECT && (m.type != 1 || m.port == 0)))
		return say_failed(w, m.request, EINVAL, err);
	return m.action == OPEN_LISTEN ? open_listener(w, &m, &a, len, err)
				       : begin_connect(w, &m, &a, len, err);
}

static void
drop(struct connecting *c)
{
	close(c->fd);
	*c = (struct connecting){0};
}

int
opener_cancel(struct wire *w, struct err *err)
{
	const uint32_t request = w->message.init_open_cancel.request;
	struct connecting *c = find_place(-1, request);

	if (!c)
		return 0; /* answered before */
	drop(c);
	return say_failed(w, request, ECANCELED, err);
}

nfds_t
opener_wants(struct pollfd *out)
{
	nfds_t n = 0;

	for (int i = 0; i < OPENER_CONNECTS_MAX; i++)
		if (connects[i].fd > 0)
			out[n++] = (struct pollfd){.fd = connects[i].fd, .events = POLLOUT};
	return n;
}

static int
finish(struct wire *w, struct connecting *c, struct err *err)
{
	int why = 0;
	socklen_t n = sizeof why;

	if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &why, &n) < 0)
		why = errno;
	const int told =
	    why ? say_failed(w, c->request, why, err) : say_opened(w, c->request, c->fd, err);
	drop(c);
	return told;
}

int
opener_ready(struct wire *w, const struct pollfd *p, nfds_t n, struct err *err)
{
	for (nfds_t k = 0; k < n; k++)
		for (int i = 0; i < OPENER_CONNECTS_MAX && p[k].revents; i++)
			if (connects[i].fd == p[k].fd) {
				if (finish(w, &connects[i], err) < 0)
					return -1;
				break;
			}
	return 0;
}
