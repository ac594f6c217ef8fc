/* Host names as the session sees them: its /etc/hosts, its name servers, its network. A child of
 * its init looks (init/lookup.c) and says what it found into a pipe of ours; each word of that is a
 * claim of the session's, good for a connection of the session's network and for nothing else. */
#ifndef BERTH_RESOLVE_H
#define BERTH_RESOLVE_H

#include "base/buf.h"
#include "base/err.h"
#include "base/loop.h"
#include "wire/wire.h"

#include <stddef.h>
#include <stdint.h>

enum { RESOLVE_WAITING_MAX = 256 }; /* of one session */

struct resolve_address {
	unsigned family;                      /* 4 or 6 */
	uint8_t bytes[RESOLVE_ADDRESS_BYTES]; /* network order; of IPv4 the first four */
};

/* Called once for a question. failure NULL: 1 to RESOLVE_MOST addresses, to be tried in order. */
typedef void (*resolve_fn)(void *ctx, const struct resolve_address *found, size_t n,
			   const struct err *failure);

struct resolver {
	struct loop *loop; /* lent */
	struct wire *init; /* lent */
	struct question *questions;
	uint32_t next_number;
	unsigned waiting, asked; /* of all, and of those that init is at */
};

void resolve_init(struct resolver *r, struct loop *l, struct wire *init);
/* Whether a text can be a host name at all. */
bool resolve_is_name(struct str name);
/* Asks for the addresses of a name, with the rights of uid and gid as the session sees them.
 *   *out     names the question for resolve_cancel
 *   fails    UNAVAILABLE when too many wait or init is gone; fn is not called then */
int resolve_ask(struct resolver *r, struct str name, uint32_t uid, uint32_t gid, resolve_fn fn,
		void *ctx, uint32_t *out, struct err *err) must_check;
/* Nobody waits any more: fn is not called. One that is not known has ended. */
void resolve_cancel(struct resolver *r, uint32_t number);
/* Init is gone: all questions fail with this. */
void resolve_end(struct resolver *r, const struct err *why);

#endif
