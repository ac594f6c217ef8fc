/* Connections that log in, and those that have: what a conn is told, and when it is cut. */
#include "base/fd.h"
#include "base/log.h"
#include "base/time.h"
#include "manager/conns.h"
#include "manager/login.h"
#include "manager/session.h"
#include "manager/views.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <unistd.h>

enum {
	EXPIRY_LOOK_S = 60, /* the wall clock may be set: it is looked at this often */
	KEYS_LOOK_S = 1,
	FAR_S = 2000000000, /* sixty years: no deadline for a keeper */
};

static uint64_t
now_s(void)
{
	return time_real_ns() / NS_PER_S;
}

/* ---- let in, and cut ---- */

static void check(struct conn *c);

static void
on_expiry(void *ctx)
{
	check(ctx);
}

static void
watch_expiry(struct conn *c)
{
	const uint64_t now = now_s();

	timer_cancel(&c->expiry);
	if (!c->until_s)
		return;
	uint64_t left_s = c->until_s > now ? c->until_s - now : 0;
	if (left_s > EXPIRY_LOOK_S)
		left_s = EXPIRY_LOOK_S;
	timer_set(&c->m->loop, &c->expiry, time_now_ns() + left_s * NS_PER_S, on_expiry, c);
}

uint64_t
login_deadline_ns(const struct conn *c)
{
	const uint64_t now = now_s(), left_s = c->until_s > now ? c->until_s - now : 0;

	return c->until_s && left_s < FAR_S ? time_now_ns() + left_s * NS_PER_S + 1 : 0;
}

static void
take_rights(struct conn *c, const struct login *l)
{
	snprintf(c->principal, sizeof c->principal, "%s", l->principal);
	c->role = l->role;
	c->scope = l->scope;
	c->until_s = l->until_s;
	allowances_copy(&l->allow, &c->allow);
	watch_expiry(c);
}

static void
end(struct conn *c, const struct err *why)
{
	audit_write(&c->m->audit, "cut", AUDIT_TEXT("conn", c->tag), AUDIT_TEXT("peer", c->peer),
		    AUDIT_TEXT("user", c->user), AUDIT_TEXT("principal", c->principal),
		    AUDIT_TEXT("why", why->why));
	conns_end(c, why);
}

static bool
is_other_list(const char *had, const char *has)
{
	return has && (!had || strcmp(had, has) != 0);
}

/* Whether it has something that it would not be given now: conn and keepers were told of it. */
static bool
is_narrowed(const struct conn *c, const struct login *l)
{
	struct str name;
	views_is(str_of(c->user), &name);
	const struct session *s = session_find(c->m, name);
	if (s)
		name = str_of(s->row.name);

	return l->role < c->role || c->allow.flags & ~l->allow.flags ||
	       is_other_list(c->allow.open, l->allow.open) ||
	       is_other_list(c->allow.listen, l->allow.listen) ||
	       (c->control ? l->scope.globs[0] && strcmp(c->scope.globs, l->scope.globs) != 0
			   : !scope_has(&l->scope, name));
}

/* Whether it would be let in now, with all that it has. What would be more than that it does not get. */
static void
check(struct conn *c)
{
	__attribute__((cleanup(login_done))) struct login l = {.role = PRINCIPAL_NOBODY};
	struct err err;
	struct str session;
	views_is(str_of(c->user), &session);
	const struct login_question q = {.user = session,
					 .key = permits_text(c->key),
					 .source = &c->source,
					 .roles = c->roles,
					 .now_s = now_s()};

	if (!c->proven || c->dropped || !keys_known(&c->m->keys))
		return;
	if (login_decide(&c->m->keys, &q, &l, &err) < 0) {
		end(c, &err);
		return;
	}
	if (is_narrowed(c, &l)) {
		err_set(&err, ERR_DENIED, "what key %s may do has changed", l.principal);
		end(c, &err);
		return;
	}
	l.role = c->role;
	allowances_copy(&c->allow, &l.allow);
	take_rights(c, &l);
}

void
login_session_renamed(const struct session *s)
{
	struct err err;
	struct str name;

	for (struct conn *c = s->m->conns; c; c = c->next) {
		views_is(str_of(c->user), &name);
		if (!c->proven || c->control || c->dropped || session_find(s->m, name) != s ||
		    scope_has(&c->scope, str_of(s->row.name)))
			continue;
		err_set(&err, ERR_DENIED, "the session's new name is outside the scope of key %s",
			c->principal);
		end(c, &err);
	}
}

/* ---- files of keys change ---- */

static void on_look(void *ctx);

/* Reads what has changed, however that was noticed, and cuts who has lost by it. */
static void
note_keys(struct manager *m)
{
	const bool again = keys_reload(&m->keys);

	if (m->keys_loads != m->keys.loads) {
		conns_note_keys(m);
		for (struct conn *c = m->conns; c; c = c->next)
			check(c);
	}
	if (again && !m->keys_timer.slot)
		timer_set(&m->loop, &m->keys_timer, time_now_ns() + KEYS_LOOK_S * NS_PER_S, on_look,
			  m);
}

static void
on_look(void *ctx)
{
	note_keys(ctx);
}

/* ---- the question ---- */

/* A key that may come in is told of when it is proven, one that may not when it is offered. */
static void
audit_answer(struct conn *c, const struct msg_key_query *q, const struct login *l,
	     const struct err *why)
{
	if (!why && !q->proven)
		return;
	char serial[24] = "";
	if (l->id[0])
		snprintf(serial, sizeof serial, "%llu", (unsigned long long)l->serial);
	audit_write(&c->m->audit, "auth", AUDIT_TEXT("conn", c->tag), AUDIT_TEXT("peer", c->peer),
		    AUDIT_TEXT("result", why ? "refused" : "accepted"), AUDIT_STR("user", q->user),
		    AUDIT_TEXT("key", l->offered), AUDIT_TEXT("principal", l->principal),
		    AUDIT_TEXT("role", l->role ? principal_role_name(l->role) : ""),
		    AUDIT_TEXT("authority", l->authority), AUDIT_TEXT("certificate", l->id),
		    AUDIT_TEXT("serial", serial), AUDIT_TEXT("why", why ? why->why : ""));
}

static void
let_in(struct conn *c, const struct msg_key_query *q, const struct login *l)
{
	snprintf(c->user, sizeof c->user, "%.*s", (int)q->user.len, q->user.at);
	free(c->key);
	c->key = xstrndup(q->key);
	c->control = str_is(q->user, "berth");
	c->proven = true;
	timer_cancel(&c->login);
	door_proven(c);
	take_rights(c, l);
	log_line("%s: %s is %s %s", c->peer, c->user, principal_role_name(c->role), c->principal);
}

/* Allowances go first: who is let in is never without them. */
static int
tell_conn(struct conn *c, bool ok, bool control, const struct login *l, struct err *err)
{
	if (c->proven && wire_send(&c->wire, key_allowances, err, .flags = c->allow.flags,
				   .permit_open = permits_text(c->allow.open),
				   .permit_listen = permits_text(c->allow.listen)) < 0)
		return -1;
	return wire_send(&c->wire, key_answer, err, .ok = ok, .control = ok && control,
			 .role = str_of(ok ? principal_role_name(l->role) : ""),
			 .principal = str_of(ok ? l->principal : ""));
}

void
login_answer(struct conn *c, const struct msg_key_query *m)
{
	__attribute__((cleanup(login_done))) struct login l = {.role = PRINCIPAL_NOBODY};
	struct err why, err;
	struct str session; /* what a certificate names is that, for its snapshots too */
	views_is(m->user, &session);
	const struct login_question q = {.user = session,
					 .key = m->key,
					 .source = &c->source,
					 .roles = c->roles,
					 .now_s = now_s()};

	if (++c->queries >
	    2 * c->m->config.login_attempts) { /* a conn counts too, if it is ours still */
		err_set(&err, ERR_DENIED, "too many attempts to log in");
		c->gave_up = true;
		conns_drop(c, &err);
		return;
	}
	note_keys(c->m);
	const bool ok = login_decide(&c->m->keys, &q, &l, &why) == 0;
	c->refused += !ok;
	if (ok) {
		audit_answer(c, m, &l, NULL);
	} else if (door_tells_key(&c->m->door, c->peer)) {
		audit_answer(c, m, &l, &why);
		log_err(&why, "%s: user %.*s is refused", c->peer, (int)m->user.len, m->user.at);
	}
	if (ok && m->proven)
		let_in(c, m, &l);
	if (tell_conn(c, ok, str_is(m->user, "berth"), &l, &err) < 0) {
		conns_drop(c, &err);
		return;
	}
	if (c->proven)
		c->wire.phase = PHASE_OPEN;
}

void
login_adopt(struct conn *c, uint32_t forwards)
{
	struct err err;

	note_keys(c->m);
	check(c);
	if (c->dropped || !(forwards & ~forwards_of(c)))
		return;
	err_set(&err, ERR_DENIED, "what role %s may forward has changed",
		principal_role_name(c->role));
	end(c, &err);
}

void
login_forget(struct conn *c)
{
	timer_cancel(&c->expiry);
	allowances_done(&c->allow);
	free(c->key);
	c->key = NULL;
}

/* ---- the directory of keys ---- */

static void
on_keys(void *ctx, uint32_t events)
{
	struct manager *m = ctx;
	char ignored[4096];

	(void)events;
	while (read(m->keys_notify, ignored, sizeof ignored) > 0)
		;
	note_keys(m);
}

int
login_watch(struct manager *m, struct err *err)
{
	char path[32];

	/* Closed after writing, renamed, removed: never in the middle of an editor's work. */
	const uint32_t events =
	    IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE | IN_ATTRIB;
	m->keys_notify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (m->keys_notify < 0)
		return err_sys(err, errno, "watch the directory of keys");
	snprintf(path, sizeof path, "/proc/self/fd/%d", m->keys.dir);
	if (inotify_add_watch(m->keys_notify, path, events) < 0)
		return err_sys(err, errno, "watch the directory of keys");
	return watch_add(&m->loop, &m->keys_watch, m->keys_notify, EPOLLIN, on_keys, m, err);
}

void
login_unwatch(struct manager *m)
{
	timer_cancel(&m->keys_timer);
	watch_remove(&m->keys_watch);
	fd_close(&m->keys_notify);
}
