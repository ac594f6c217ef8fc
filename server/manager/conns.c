/* conn processes. Each message that comes from one is untrusted: its row was checked by wire.c,
 * what it may ask is decided here, by the phase of its link and by may(). */
#include "conns.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/time.h"
#include "manager/agent.h"
#include "manager/do.h"
#include "manager/imported.h"
#include "manager/login.h"
#include "manager/reach.h"
#include "manager/session.h"
#include "manager/views.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CONN_UID_OFFSET = 400000, CONN_UIDS = 1024, ACCEPTS_A_TURN = 16 };

/* A first channel on a new name that waits until fewer sessions start. */
struct ask {
	struct ask *next;
	struct asker asker;
};

/* One's questions: one of them, or (seq NULL) all. */
static void
drop_asks(struct conn *c, const uint32_t *seq)
{
	for (struct ask **at = &c->m->asks; *at;) {
		struct ask *a = *at;
		if (a->asker.conn == c && (!seq || a->asker.seq == *seq)) {
			asker_forget(&a->asker);
			*at = a->next;
			free(a);
		} else {
			at = &a->next;
		}
	}
}

/* What a verb has begun goes on; its answer is dropped. */
static void
forget_verb(struct conn *c, uint32_t seq)
{
	for (struct session *s = c->m->sessions; s; s = s->next)
		session_forget_conn(s, c, &seq);
	do_forget_conn(c, &seq);
	drop_asks(c, &seq);
}

static void
interrupt(struct conn *c, uint32_t seq)
{
	struct err err;
	bool handled = imported_interrupt(c, seq);

	for (struct session *s = c->m->sessions; s && !handled; s = s->next)
		handled = session_interrupt(s, c, seq);
	if (!handled)
		forget_verb(c, seq);
	if (!c->dropped && wire_send(&c->wire, verb_interrupted, &err, .seq = seq, .handled = handled) < 0)
		conns_drop(c, &err);
}

static struct str
fit(const char *text, size_t max)
{
	const size_t n = strlen(text);
	return (struct str){text, n < max ? n : max};
}

static void
free_conn(void *ctx)
{
	free(ctx);
}

static void
conn_close(struct conn *c)
{
	struct manager *m = c->m;

	if (!m->closing) /* else it goes on with its keeper */
		audit_write(&m->audit, "disconnect", AUDIT_TEXT("conn", c->tag),
			    AUDIT_TEXT("peer", c->peer), AUDIT_TEXT("user", c->user),
			    AUDIT_TEXT("principal", c->principal));

	timer_cancel(&c->login);
	door_leave(c);
	login_forget(c);
	wire_close(&c->wire);
	for (struct session *s = m->sessions; s; s = s->next)
		session_forget_conn(s, c, NULL);
	do_forget_conn(c, NULL);
	drop_asks(c, NULL);
	views_leave(c);
	for (struct conn **at = &m->conns; *at; at = &(*at)->next)
		if (*at == c) {
			*at = c->next;
			m->n_conns--;
			loop_defer(&m->loop, free_conn, c);
			return;
		}
}

/* A send that fails means a conn that is gone or reads nothing. */
void
conns_drop(struct conn *c, const struct err *err)
{
	log_err(err, "connection from %s is cut", c->peer);
	c->dropped = true;
	if (wire_is_open(&c->wire))
		shutdown(c->wire.fd, SHUT_RDWR);
}

void
conns_end(struct conn *c, const struct err *err)
{
	struct err ignored; /* whoever is gone is cut already */

	/* It is told first: it has words for its client. That it is ours still is not relied upon.
	 */
	(void)!wire_send(&c->wire, conn_cut, &ignored, .why = fit(err->why, 512));
	for (struct session *s = c->m->sessions; s; s = s->next)
		if (s->keeper.linked)
			(void)!wire_send(&s->keeper.wire, revoke, &ignored, .grant = c->id);
	conns_drop(c, err);
}

/* ---- answers ---- */

bool
asker_count(struct asker *a)
{
	struct err err;

	if (a->conn->asked > a->conn->m->config.channels_max) {
		err_set(&err, ERR_CORRUPT, "%u questions at once", a->conn->asked);
		conns_drop(a->conn, &err);
		return false;
	}
	a->conn->asked++;
	a->counted = true;
	return true;
}

void
asker_forget(struct asker *a)
{
	if (a->conn && a->counted)
		a->conn->asked--;
	a->conn = NULL;
	a->counted = false;
}

/* Words of sessions, keepers and other principals are in it: none of them may colour or move what
 * somebody's terminal shows. In JSON they are escaped already. */
void
asker_print(struct asker *a, struct str bytes)
{
	enum { PIECE = 60000 };
	char piece[PIECE];
	struct err err;

	while (a->conn && bytes.len) {
		size_t n = bytes.len < PIECE ? bytes.len : PIECE;
		n -= n < bytes.len && (unsigned char)bytes.at[n - 1] == 0xc2;
		memcpy(piece, bytes.at, n);
		if (!a->json)
			str_hide_controls(piece, n, "\n\t", '?');
		if (wire_send(&a->conn->wire, verb_output, &err, .seq = a->seq,
			      .bytes = {piece, n}) < 0) {
			conns_drop(a->conn, &err);
			return;
		}
		bytes.at += n;
		bytes.len -= n;
	}
}

void
asker_progress(const struct asker *a, const char *doing, const struct msg_progress *done,
	       uint64_t of_bytes, uint64_t of_entries, uint64_t since_ns)
{
	const uint64_t now = time_real_ns();
	struct err err;

	if (!a->conn || !a->is_verb || a->conn->dropped)
		return;
	if (wire_send(&a->conn->wire, verb_progress, &err, .seq = a->seq, .doing = str_of(doing),
		      .bytes = done->bytes, .of_bytes = of_bytes, .entries = done->entries,
		      .of_entries = of_entries,
		      .elapsed_ns = now > since_ns ? now - since_ns : 0) < 0)
		conns_drop(a->conn, &err);
}

void
asker_end(struct asker *a, const struct err *failure)
{
	struct err err;
	static const struct err none;

	if (!a->conn)
		return;
	const struct err *e = failure ? failure : &none;
	if (wire_send(&a->conn->wire, verb_end, &err, .seq = a->seq, .code = e->code,
		      .what = fit(e->what, 128), .why = fit(e->why, 512),
		      .hint = fit(e->hint, 160)) < 0)
		conns_drop(a->conn, &err);
	asker_forget(a);
}

void
asker_session(struct asker *a, int keeper_link, const char *notice)
{
	struct err err;

	if (!a->conn)
		return;
	const struct msg_session_ready ready = {.seq = a->seq, .notice = fit(notice, 512)};
	if (wire_send_fds(&a->conn->wire, MSG_session_ready, &ready, &keeper_link, 1, &err) < 0)
		conns_drop(a->conn, &err);
	asker_forget(a);
}

void
asker_session_failed(struct asker *a, const struct err *failure)
{
	struct err err;

	if (!a->conn)
		return;
	if (wire_send(&a->conn->wire, session_failed, &err, .seq = a->seq, .code = failure->code,
		      .why = fit(failure->why, 512), .hint = fit(failure->hint, 160)) < 0)
		conns_drop(a->conn, &err);
	asker_forget(a);
}

/* ---- what a conn asks ---- */

void
conns_note_keys(struct manager *m)
{
	if (m->keys_loads == m->keys.loads)
		return;
	m->keys_loads = m->keys.loads;
	audit_write(&m->audit, "keys", AUDIT_NUMBER("keys", m->keys.n),
		    AUDIT_TEXT("sha256", digest_text(&m->keys.sum).text),
		    AUDIT_TEXT("revoked_sha256", m->keys.revoked_file.taken.there
						     ? digest_text(&m->keys.revoked_sum).text
						     : ""));
}

/* A first channel on a session: found, made, or refused with a reason. */
static struct session *
session_for(struct conn *c, struct err *err)
{
	struct manager *m = c->m;
	struct str name;
	if (views_is(str_of(c->user), &name))
		return views_of(c, err);
	if (session_ref_check(str_of(c->user), err) < 0)
		return NULL;
	struct session *s = session_find(m, str_of(c->user));

	if (s && s->choices.throwaway) {
		err_set(err, ERR_ABSENT, "no such session");
		return NULL;
	}
	if (s && s->state != SESSION_DELETED) {
		if (may(c->role, &c->scope, &verbs[VERB_exec], str_of(s->row.name)))
			return s;
		err_set(err, ERR_DENIED, "this key may not use session %s", c->user);
		return NULL;
	}
	if (!may(c->role, &c->scope, &verbs[VERB_new], str_of(c->user)) || !m->config.auto_create) {
		err_set(err, ERR_ABSENT, "no such session");
		return NULL;
	}
	if (s && s->row.deleted_ns + m->config.tombstone > time_real_ns()) {
		err_set(err, ERR_ABSENT, "session %s was deleted", s->row.name);
		err_hint(err, "its name is kept for a while; to use it now: ssh berth@HOST new %s",
			 s->row.name);
		return NULL;
	}
	if (session_create(m, str_of(c->user), c->principal, &s, err) < 0)
		return NULL;
	return s;
}

static void
ask_session(struct conn *c, struct asker *a)
{
	struct err err;

	if (c->control)
		err_set(&err, ERR_DENIED, "user berth has no session");
	struct session *s = c->control ? NULL : session_for(c, &err);
	if (!s) {
		asker_session_failed(a, &err);
		return;
	}
	struct want *w = want_new(c->m, WANT_RUN, a);
	w->base_differs = s == c->view; /* its files are what is read */
	session_want(s, w);
}

/* Making a session is part of its start: what is made early would stand before those whose start only
 * needs its end. Each start has a deadline, so each question gets its turn. */
static void
want_session(struct conn *c, uint32_t seq)
{
	struct manager *m = c->m;
	struct asker a = {.conn = c, .seq = seq};

	if (!asker_count(&a))
		return;
	const bool full = m->asks || m->n_starting >= SESSION_STARTS_MAX;
	if (!full || c->control || session_find(m, str_of(c->user))) {
		ask_session(c, &a);
		return;
	}
	struct ask **end = &m->asks;
	while (*end)
		end = &(*end)->next;
	*end = xnew(1, sizeof **end);
	(*end)->asker = a;
}

void
conns_next(struct manager *m)
{
	while (m->asks && m->n_starting < SESSION_STARTS_MAX) {
		struct ask *a = m->asks;
		m->asks = a->next;
		ask_session(a->asker.conn, &a->asker);
		free(a);
	}
}

static void
dispatch(struct conn *c)
{
	const struct message *msg = &c->wire.message;

	switch ((int)msg->id) {
	case MSG_key_query:
		login_answer(c, &msg->key_query);
		return;
	case MSG_attempts_over:
		c->gave_up = true;
		return;
	case MSG_session_want:
		want_session(c, msg->session_want.seq);
		return;
	case MSG_verb_start:
		do_verb(c, &msg->verb_start);
		return;
	case MSG_agent_want:
		agent_want(c, msg->agent_want.seq);
		return;
	case MSG_verb_input_end:
		do_input_given(c, &msg->verb_input_end);
		return;
	case MSG_verb_interrupt:
		interrupt(c, msg->verb_interrupt.seq);
		return;
	case MSG_verb_cancel:
		forget_verb(c, msg->verb_cancel.seq);
		return;
	default:
		return; /* no other row has this direction */
	}
}

static void
read_conn(void *ctx)
{
	struct conn *c = ctx;
	struct err err;
	int got = 0;

	/* what one that was dropped has sent before is not heard any more */
	while (!c->dropped && (got = wire_recv(&c->wire, &err)) == 1)
		dispatch(c);
	if (!c->dropped && got == 0)
		return;
	if (!c->dropped && err.code != ERR_UNAVAILABLE)
		log_err(&err, "connection from %s is cut", c->peer);
	conn_close(c);
}

static void
login_over(void *ctx)
{
	struct conn *c = ctx;
	struct err err;

	err_set(&err, ERR_TIMEOUT, "no authentication in time");
	conns_drop(c, &err);
}

/* ---- life ---- */

static void
name_peer(const struct sockaddr_storage *from, char out[64])
{
	const struct source s = source_of(from);
	const char *host = s.text[0] ? s.text : "?";

	if (from->ss_family == AF_INET6)
		snprintf(out, 64, "[%s]:%u", host,
			 ntohs(((const struct sockaddr_in6 *)(const void *)from)->sin6_port));
	else
		snprintf(out, 64, "%s:%u", host,
			 ntohs(((const struct sockaddr_in *)(const void *)from)->sin_port));
}

/* The address of what name_peer wrote. */
static struct source
peer_source(struct str peer)
{
	while (peer.len && peer.at[peer.len - 1] != ':')
		peer.len--;
	peer.len -= peer.len > 0;
	if (peer.len > 2 && peer.at[0] == '[' && peer.at[peer.len - 1] == ']')
		peer = (struct str){peer.at + 1, peer.len - 2};
	return source_parse(peer);
}

static struct conn *
conn_new(struct manager *m)
{
	struct conn *c = xnew(1, sizeof *c);

	c->m = m;
	if (getrandom(&c->id, sizeof c->id, 0) != sizeof c->id)
		abort();
	snprintf(c->tag, sizeof c->tag, "%016llx", (unsigned long long)c->id);
	c->next = m->conns;
	m->conns = c;
	m->n_conns++;
	return c;
}

static int
conn_start(struct conn *c, int client, struct err *err)
{
	struct manager *m = c->m;
	int pair[2];

	if (wire_pair(pair, err) < 0)
		return -1;
	auto_close int theirs = pair[1];
	if (wire_open(&c->wire, pair[0], ROLE_MANAGER, ROLE_CONN, PHASE_UNPROVEN, err) < 0)
		return -1;
	const uint64_t own = m->config.uid_base - CONN_UID_OFFSET + m->conn_count++ % CONN_UIDS;
	if (nursery_start_conn(m, theirs, client, m->node.isolation.own_uids ? (uint32_t)own : 0,
			       err) < 0)
		return -1;
	if (wire_send(&c->wire, conn_login, err, .attempts = (uint32_t)m->config.login_attempts,
		      .kex = str_of(m->algorithms.kex), .ciphers = str_of(m->algorithms.ciphers),
		      .macs = str_of(m->algorithms.macs),
		      .host_keys = STR_LIT(ALGORITHMS_HOST_KEYS),
		      .banner = str_of(m->config.banner)) < 0 ||
	    wire_send(&c->wire, conn_setup, err, .host_key = buf_view(&m->keys.host),
		      .peer = str_of(c->peer), .login_ns = m->config.login_grace,
		      .channels_max = (uint32_t)m->config.channels_max,
		      .hostname = str_of(m->hostname)) < 0)
		return -1;
	timer_set(&m->loop, &c->login, time_now_ns() + m->config.login_grace + 5 * NS_PER_S,
		  login_over, c);
	return wire_watch(&c->wire, &m->loop, read_conn, c, err);
}

static void
accept_one(struct listener *l, int client, const struct sockaddr_storage *from)
{
	struct manager *m = l->m;
	const struct source source = source_of(from);
	const int one = 1;
	char peer[64];
	struct err err;

	name_peer(from, peer);
	if (reach_is_refused(m, client, from) || !door_lets_in(&m->door, client, &source, peer))
		return;
	setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	struct conn *c = conn_new(m);
	snprintf(c->peer, sizeof c->peer, "%s", peer);
	c->source = source;
	c->roles = l->roles;
	door_enter(c);
	audit_write(&m->audit, "connect", AUDIT_TEXT("conn", c->tag), AUDIT_TEXT("peer", c->peer));
	if (conn_start(c, client, &err) < 0) {
		log_err(&err, "connection from %s is refused", c->peer);
		conn_close(c);
	}
}

void
conns_accept(struct listener *l)
{
	for (int i = 0; i < ACCEPTS_A_TURN; i++) {
		struct sockaddr_storage from = {0};
		socklen_t n = sizeof from;
		auto_close int client = accept4(l->fd, (struct sockaddr *)&from, &n, SOCK_CLOEXEC);
		if (client < 0) {
			if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
				log_line("accept: %s", strerrordesc_np(errno));
			return;
		}
		if (!l->m->stopping)
			accept_one(l, client, &from);
	}
}

int
conns_adopt(struct session *s, const struct msg_grant_report *r, struct err *err)
{
	struct manager *m = s->m;
	int pair[2];

	/* whatever the keeper says, it is a connection to its own session; its name may be another by now */
	const bool renamed = session_find(m, r->user) != s;
	if (wire_pair(pair, err) < 0)
		return -1;
	auto_close int theirs = pair[1];
	uint32_t forwards = 0;
	struct conn *c = conn_new(m);
	c->id = r->grant;
	snprintf(c->tag, sizeof c->tag, "%016llx", (unsigned long long)c->id);
	c->proven = true;
	snprintf(c->peer, sizeof c->peer, "%.*s", (int)r->peer.len, r->peer.at);
	if (renamed)
		snprintf(c->user, sizeof c->user, "%s", s->row.id);
	else
		snprintf(c->user, sizeof c->user, "%.*s", (int)r->user.len, r->user.at);
	snprintf(c->principal, sizeof c->principal, "%.*s", (int)r->principal.len, r->principal.at);
	c->source = peer_source(str_of(c->peer));
	if (s->keeper.terms.key && s->keeper.terms.grant == r->grant) {
		c->key = steal(&s->keeper.terms.key);
		c->roles = s->keeper.terms.roles;
		forwards = s->keeper.terms.forwards;
		c->allow = s->keeper.terms.allow;
		s->keeper.terms.allow = (struct allowances){0};
	}
	c->role = principal_role_parse(r->role);
	if (wire_open(&c->wire, pair[0], ROLE_MANAGER, ROLE_CONN, PHASE_OPEN, err) < 0 ||
	    wire_watch(&c->wire, &m->loop, read_conn, c, err) < 0 ||
	    wire_send_fds(&s->keeper.wire, MSG_conn_adopt,
			  &(struct msg_conn_adopt){.grant = r->grant}, &theirs, 1, err) < 0) {
		conn_close(c);
		return -1;
	}
	audit_write(&m->audit, "adopt", AUDIT_TEXT("conn", c->tag), AUDIT_TEXT("peer", c->peer),
		    AUDIT_TEXT("user", c->user), AUDIT_TEXT("principal", c->principal),
		    AUDIT_TEXT("role", principal_role_name(c->role)));
	login_adopt(c, forwards);
	return 0;
}

void
conns_session_renamed(struct session *s, const char *old)
{
	char user[sizeof s->m->conns->user];
	struct str name;

	for (struct conn *c = s->m->conns; c; c = c->next) {
		views_is(str_of(c->user), &name);
		if (!c->proven || c->control || !str_is(name, old))
			continue;
		snprintf(user, sizeof user, "%s%.100s", s->row.id, c->user + name.len);
		memcpy(c->user, user, sizeof c->user);
	}
	login_session_renamed(s);
}

void
conns_close_all(struct manager *m)
{
	while (m->conns)
		conn_close(m->conns);
}
