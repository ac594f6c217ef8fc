#include "door.h"
#include "base/log.h"
#include "base/time.h"
#include "manager/conns.h"
#include "manager/manager.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

enum {
	PLACES_MORE = 1024, /* that have nothing but failures */
	KEYS_TOLD_A_SECOND = 100,
};

static const struct {
	const char *name, *words;
} reasons[DOOR_REASONS] = {
    [DOOR_FULL] = {"full", "as many are connected as may be (connections_max)"},
    [DOOR_UNPROVEN] = {"unproven", "too many that have not logged in (connections_unproven_max)"},
    [DOOR_CROWD] = {"crowd", "too many of one address that have not logged in "
			     "(connections_unproven_address)"},
    [DOOR_WAIT] = {"wait", "too many failed logins of its address (login_failures)"},
    [DOOR_ATTEMPTS] = {"attempts", "too many tries to log in (login_attempts)"},
    [DOOR_LATE] = {"late", "did not log in in time (login_grace)"},
    [DOOR_KEYS] = {"keys", "keys that may not come in, more than are told one by one"},
};

/* ---- refusals are told, but do not fill a log ---- */

static void
say(struct door *d, enum door_reason r)
{
	const unsigned n = d->refusals[r].untold;

	d->refusals[r].untold = 0;
	d->refusals[r].told_ns = time_now_ns();
	log_line("refused: %u, the last from %s: %s", n, d->refusals[r].last, reasons[r].words);
	audit_write(&d->m->audit, "refuse", AUDIT_TEXT("reason", reasons[r].name),
		    AUDIT_NUMBER("times", n), AUDIT_TEXT("peer", d->refusals[r].last));
}

static void
on_tell(void *ctx)
{
	struct door *d = ctx;

	for (int r = 0; r < DOOR_REASONS; r++)
		if (d->refusals[r].untold)
			say(d, (enum door_reason)r);
}

static void
tell(struct door *d, enum door_reason r, const char *peer)
{
	const uint64_t now_ns = time_now_ns(), told_ns = d->refusals[r].told_ns;

	d->refusals[r].untold++;
	snprintf(d->refusals[r].last, sizeof d->refusals[r].last, "%s", peer);
	if (!told_ns || now_ns - told_ns >= NS_PER_S)
		say(d, r);
	else if (!d->tell.slot)
		timer_set(&d->m->loop, &d->tell, told_ns + NS_PER_S, on_tell, d);
}

bool
door_tells_key(struct door *d, const char *peer)
{
	const uint64_t now_ns = time_now_ns();

	if (now_ns - d->keys_ns >= NS_PER_S) {
		d->keys_ns = now_ns;
		d->keys = 0;
	}
	if (++d->keys <= KEYS_TOLD_A_SECOND)
		return true;
	tell(d, DOOR_KEYS, peer);
	return false;
}

/* ---- addresses ---- */

static bool
is_of(const struct door_place *p, const struct source *party)
{
	return p->party.bytes == party->bytes && memcmp(p->party.at, party->at, party->bytes) == 0;
}

static struct door_place *
find(struct door *d, const struct source *from)
{
	const struct source party = source_party(from);

	for (size_t i = 0; party.bytes && i < d->n; i++)
		if (is_of(&d->places[i], &party))
			return &d->places[i];
	return NULL;
}

/* More places than connections that can have one: there is always one to take. */
static struct door_place *
find_or_take(struct door *d, const struct source *from)
{
	struct door_place *p = find(d, from), *oldest = NULL;

	for (size_t i = 0; !p && i < d->n; i++) {
		struct door_place *q = &d->places[i];
		if (q->unproven == 0 && (!oldest || q->party.bytes == 0 ||
					 (oldest->party.bytes && q->failed_ns < oldest->failed_ns)))
			oldest = q;
	}
	if (p || !oldest)
		return p;
	*oldest = (struct door_place){.party = source_party(from)};
	return oldest;
}

static void
forget_old(const struct door *d, struct door_place *p, uint64_t now_ns)
{
	if (p->failures && now_ns >= p->wait_until_ns &&
	    now_ns - p->failed_ns > d->m->config.login_backoff_max)
		p->failures = 0;
}

static void
note_failure(struct door *d, struct door_place *p)
{
	const struct config *c = &d->m->config;
	const uint64_t now_ns = time_now_ns();

	forget_old(d, p, now_ns);
	p->failures++;
	p->failed_ns = now_ns;
	if (c->login_failures == 0 || p->failures < c->login_failures)
		return;
	uint64_t wait_ns = c->login_backoff;
	for (uint64_t n = p->failures; n > c->login_failures && wait_ns < c->login_backoff_max; n--)
		wait_ns *= 2;
	if (wait_ns > c->login_backoff_max)
		wait_ns = c->login_backoff_max;
	p->wait_until_ns = now_ns + wait_ns;
}

/* ---- room ---- */

static bool
is_unproven(const struct conn *c)
{
	return !c->proven && !c->dropped;
}

/* The oldest that has not logged in: of this place, or of the one that has most of them. */
static struct conn *
find_oldest(const struct door *d, const struct door_place *p)
{
	struct conn *oldest = NULL;

	for (struct conn *c = d->m->conns; c; c = c->next) /* the newest is first */
		if (is_unproven(c) && c->place && (!p || c->place == p) &&
		    (!oldest || p || c->place->unproven >= oldest->place->unproven))
			oldest = c;
	return oldest;
}

static void
make_room(struct door *d, const struct door_place *p, enum door_reason why)
{
	struct conn *c = find_oldest(d, p);
	struct err err;

	if (!c)
		return;
	tell(d, why, c->peer);
	err_set(&err, ERR_AGAIN, "others need its place");
	conns_drop(c, &err);
	door_leave(c);
}

static bool
refuse(struct door *d, int client, enum door_reason why, const char *peer)
{
	char line[160], ignored[512];
	const int n = snprintf(line, sizeof line, "berth: %s\r\n", reasons[why].words);

	/* What stands before a version is shown by clients (RFC 4253, section 4.2). What they have
	 * sent is read, or closing would take the words back. */
	if (recv(client, ignored, sizeof ignored, MSG_DONTWAIT) >= 0 || n > 0)
		send(client, line, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL);
	tell(d, why, peer);
	return false;
}

bool
door_lets_in(struct door *d, int client, const struct source *from, const char *peer)
{
	const struct config *c = &d->m->config;
	const struct door_place *p = find(d, from);

	if (p && time_now_ns() < p->wait_until_ns && !sources_match(str_of(c->login_exempt), from))
		return refuse(d, client, DOOR_WAIT, peer);
	if (p && p->unproven >= c->connections_unproven_address)
		make_room(d, p, DOOR_CROWD);
	if (d->unproven >= c->connections_unproven_max)
		make_room(d, NULL, DOOR_UNPROVEN);
	if (d->m->n_conns < c->connections_max)
		return true;
	if (d->unproven == 0)
		return refuse(d, client, DOOR_FULL, peer);
	make_room(d, NULL, DOOR_UNPROVEN);
	return true;
}

/* ---- connections ---- */

void
door_enter(struct conn *c)
{
	struct door *d = &c->m->door;

	c->opened_ns = time_now_ns();
	c->place = find_or_take(d, &c->source);
	if (!c->place)
		return;
	c->place->unproven++;
	d->unproven++;
}

static struct door_place *
count_out(struct conn *c)
{
	struct door_place *p = c->place;

	c->place = NULL;
	if (p) {
		p->unproven--;
		c->m->door.unproven--;
	}
	return p;
}

void
door_proven(struct conn *c)
{
	struct door_place *p = count_out(c);

	if (p) /* whoever shares its address has somebody who may come in */
		p->failures = 0;
}

void
door_leave(struct conn *c)
{
	struct door *d = &c->m->door;
	const bool late = time_now_ns() - c->opened_ns >= d->m->config.login_grace;
	struct door_place *p = count_out(c);

	if (!p)
		return;
	if (c->refused || late)
		note_failure(d, p);
	if (c->gave_up)
		tell(d, DOOR_ATTEMPTS, c->peer);
	else if (late)
		tell(d, DOOR_LATE, c->peer);
}

void
door_open(struct door *d, struct manager *m)
{
	d->m = m;
	d->n = (size_t)m->config.connections_unproven_max + PLACES_MORE;
	d->places = xnew(d->n, sizeof *d->places);
}

void
door_close(struct door *d)
{
	timer_cancel(&d->tell);
	free(d->places);
	d->places = NULL;
	d->n = 0;
}
