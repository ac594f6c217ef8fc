/* What a key or a certificate lets its connection do beside calls and verbs: terminals and
 * forwarding. The manager makes it of authorized_keys and certificates (manager/KEYS.md), conn and
 * keeper are told of it (messages.def: key_allowances, grant_allowances), and whoever forwards asks
 * here. */
#ifndef BERTH_ALLOWANCES_H
#define BERTH_ALLOWANCES_H

#include "base/buf.h"
#include "base/err.h"

enum allowance {
	ALLOW_PTY = 1,
	ALLOW_PORT_FORWARDING = 2,
	ALLOW_AGENT_FORWARDING = 4,
	ALLOW_X11_FORWARDING = 8,
	ALLOW_ALL = 15,
};

enum { PERMITS_MAX_BYTES = 2048 };

struct allowances {
	unsigned flags; /* enum allowance */
	char *open;     /* owned: what -L, -D, -W may reach, "HOST:PORT,…"; NULL: anything */
	char *listen;   /* owned: where -R may listen, "HOST:PORT,…"; NULL: anywhere */
};

void allowances_done(struct allowances *a);
/* What was in *out is freed. */
void allowances_copy(const struct allowances *from, struct allowances *out);
/* From a message: empty lists are none. What was in *out is freed. */
void allowances_take(struct allowances *out, unsigned flags, struct str open, struct str listen);
static inline struct str
permits_text(const char *permits)
{
	return (struct str){permits ? permits : "", permits ? strlen(permits) : 0};
}

/* Whether a connection to host (as the client wrote it, literally) and port may be asked for. */
bool allowances_may_open(const struct allowances *a, struct str host, uint32_t port);
/* Whether a listener may be asked for; port 0 (any) is allowed by a permit of * alone. */
bool allowances_may_listen(const struct allowances *a, struct str host, uint32_t port);

/* Adds one permitopen="HOST:PORT" to a list (*list may be NULL). HOST is literal or *, IPv6 in
 * brackets, PORT a number or *. */
int permits_add_open(char **list, struct str permit, struct err *err) must_check;
/* The same of permitlisten="[HOST:]PORT"; HOST is a glob, and * where it is left out. */
int permits_add_listen(char **list, struct str permit, struct err *err) must_check;

#endif
