/* Sockets of the session's network, opened by its init and used outside: listeners, and connections
 * to what listens inside. For forwards (-L, -R) and the relay of egress; the caller accepts, reads
 * and writes, in whatever process it sends the fds to.
 *
 * What comes is a socket of the kind that was asked for, and no more is known of it: who took init
 * may hold a copy, and change the flags that both share, O_NONBLOCK above all. So: MSG_DONTWAIT
 * with each send and receive, a guard (base/guard.h) around each accept, guard_close. */
#ifndef BERTH_SOCKETS_H
#define BERTH_SOCKETS_H

#include "base/err.h"
#include "base/loop.h"
#include "wire/wire.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	SOCKETS_MAX = 16,        /* of one request */
	SOCKETS_ON_THE_WAY = 64, /* of all requests; what init takes at once */
	SOCKETS_WORDS_BYTES = 96,
};

struct socket_wish {
	enum open_action action;
	unsigned family;     /* 4 or 6 */
	bool datagram;       /* else a stream */
	uint8_t address[16]; /* network order; of IPv4 the first four */
	uint16_t port;       /* 0, to listen: any */
};

/* Called once for a request. failure NULL: all n sockets are there, in the order of the wishes, and
 * the callee's from now on. Else there is none. */
typedef void (*sockets_fn)(void *ctx, const int *take_fds, size_t n, const struct err *failure);

struct sockets {
	struct loop *loop; /* lent */
	struct wire *init; /* lent */
	struct asked *asked;
	uint32_t next_number, on_the_way;
};

void sockets_init(struct sockets *s, struct loop *l, struct wire *init);
/* Asks init for n sockets, all or none of them.
 *   *out     names the request for sockets_cancel; NULL: not wanted
 *   fails    USAGE for a wish that no row can hold, UNAVAILABLE when too many are on their way or
 *            init is gone; fn is not called then */
int sockets_open(struct sockets *s, const struct socket_wish *wishes, size_t n,
		 uint64_t deadline_ns, sockets_fn fn, void *ctx, uint32_t *out,
		 struct err *err) must_check;
/* Nobody waits any more: fn is not called. One that is not known has ended. */
void sockets_cancel(struct sockets *s, uint32_t request);
/* What the oldest request waits for; empty: there is none. */
const char *sockets_wait_for(const struct sockets *s);

/* What init says. take_fd: the sockets' from now on, whatever it is. */
void sockets_opened(struct sockets *s, const struct msg_init_opened *m, int take_fd);
void sockets_failed(struct sockets *s, const struct msg_init_open_failed *m);
/* Init is gone: all requests fail with this. */
void sockets_end(struct sockets *s, const struct err *why);

#endif
