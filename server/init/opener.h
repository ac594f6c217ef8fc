/* Sockets of the session's network for the keeper: listeners, and connections on their way. Each
 * request is answered once: with the socket, or with why there is none. */
#ifndef BERTH_OPENER_H
#define BERTH_OPENER_H

#include "wire/wire.h"

#include <poll.h>

enum { OPENER_CONNECTS_MAX = 64 }; /* on their way at once */

/* Takes the init_open in w->message. -1: the keeper is gone. */
int opener_open(struct wire *w, struct err *err) must_check;
/* Takes the init_open_cancel in w->message. */
int opener_cancel(struct wire *w, struct err *err) must_check;
/* What connections wait for: fills at most OPENER_CONNECTS_MAX places, returns how many. */
nfds_t opener_wants(struct pollfd *out);
/* The same places after poll(2): answers what has connected or failed. */
int opener_ready(struct wire *w, const struct pollfd *p, nfds_t n, struct err *err) must_check;

#endif
