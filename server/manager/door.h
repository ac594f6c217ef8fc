/* Who may knock: limits on connections that have not logged in, and waits for addresses whose
 * logins fail. Nobody who knocks can use up what those inside need.
 *
 * Invariants
 *  1. a connection that has logged in is never ended for one that has not;
 *  2. where too many have not, the oldest of the address that has most of them ends, and the new
 * one is let in: half-open connections, however many, keep nobody out who logs in at once;
 *  3. an address is forgotten only when none of its connections is open and its wait is over, or
 * when there are more than the table holds (then the one that failed longest ago);
 *  4. no refusal is silent: the first of each kind is said at once, to log and audit log, the
 * others within a second, by their number. */
#ifndef BERTH_DOOR_H
#define BERTH_DOOR_H

#include "base/loop.h"
#include "manager/sources.h"

#include <stdbool.h>

struct manager;
struct conn;

enum door_reason {
	DOOR_FULL,     /* connections_max, all of them logged in */
	DOOR_UNPROVEN, /* connections_unproven_max */
	DOOR_CROWD,    /* connections_unproven_address */
	DOOR_WAIT,     /* login_failures */
	DOOR_ATTEMPTS, /* login_attempts */
	DOOR_LATE,     /* login_grace */
	DOOR_KEYS,     /* keys that were refused, beyond those that are told one by one */
	DOOR_REASONS
};

/* What is known of one address (of /64 of IPv6). */
struct door_place {
	struct source party; /* bytes 0: unused */
	unsigned unproven;   /* connections that have not logged in */
	unsigned failures;
	uint64_t failed_ns, wait_until_ns;
};

struct door {
	struct manager *m;         /* lent */
	struct door_place *places; /* owned */
	size_t n;
	unsigned unproven;
	struct {
		unsigned untold;
		uint64_t told_ns;
		char last[64]; /* who was refused */
	} refusals[DOOR_REASONS];
	struct timer tell;
	uint64_t keys_ns; /* when the second began in which ... */
	unsigned keys;    /* ... so many refused keys were told of */
};

void door_open(struct door *d, struct manager *m);
void door_close(struct door *d);
/* Before a connection is made of the socket; false: it was told why not, and is to be closed. May
 * end others that have not logged in. */
bool door_lets_in(struct door *d, int client, const struct source *from, const char *peer);
/* Of each connection: it is there; it has logged in, or ends without. */
void door_enter(struct conn *c);
void door_proven(struct conn *c);
void door_leave(struct conn *c);
/* A key was refused: whether that may be told by itself; else it is counted. */
bool door_tells_key(struct door *d, const char *peer);

#endif
