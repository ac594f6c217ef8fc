/* The links to conns. Whom a link stands for is in its grant, which the manager gave; nothing that
 * a conn sends can change it.
 *
 *  1. the end of a link is the end of its channels (join.c);
 *  2. a link ends at its deadline, whatever the manager does;
 *  3. the manager hears of every end. */
#include "keeper.h"

#include "base/log.h"
#include "base/time.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void
free_later(void *ctx)
{
	struct grant *g = ctx;

	wire_close(&g->conn);
	allowances_done(&g->allow);
	free(g->key);
	free(g);
}

/* Closes the link; its memory goes when the turn ends. */
static void
end(struct grant *g)
{
	struct keeper *k = g->keeper;
	struct err err;

	if (g->dead)
		return;
	g->dead = true;
	watch_remove(&g->conn.watch);
	timer_cancel(&g->until);
	*g->link = g->next;
	if (g->next)
		g->next->link = g->link;
	k->n_grants--;
	join_leave_all(k, g);
	tunnel_leave(k, g, NULL);
	if (wire_is_open(&k->manager) &&
	    wire_send(&k->manager, grant_closed, &err, .grant = g->number) < 0)
		log_err(&err, "grant %llu", (unsigned long long)g->number);
	loop_defer(&k->loop, free_later, g);
}

void
grant_cut(struct grant *g, const struct err *why)
{
	if (!g->dead && why->code == ERR_CORRUPT)
		log_err(why, "conn of %s is cut", g->principal);
	end(g);
}

static void
cut_later(void *ctx)
{
	end(ctx);
}

void
grant_cut_later(struct grant *g, const struct err *why)
{
	if (g->dead)
		return;
	if (why->code == ERR_CORRUPT)
		log_err(why, "conn of %s is cut", g->principal);
	loop_defer(&g->keeper->loop, cut_later, g); /* before its memory goes: that is deferred too */
}

static int
take_message(struct grant *g, struct err *err)
{
	struct keeper *k = g->keeper;
	const struct message *m = &g->conn.message;
	struct call *c;

	if (m->id == MSG_call_start)
		return admit_call(g, &m->call_start, err);
	if (m->id == MSG_call_signal && (c = call_find(k, g, m->call_signal.channel)))
		call_signal(c, m->call_signal.signal);
	if (m->id == MSG_call_resize && (c = call_find(k, g, m->call_resize.channel)))
		call_resize(c, &m->call_resize);
	if (m->id == MSG_call_taken && (c = call_find(k, g, m->call_taken.channel)))
		call_taken(c, m->call_taken.journal_bytes);
	if (m->id == MSG_call_piped_taken && (c = call_find(k, g, m->call_piped_taken.channel)))
		sftp_taken(c, &m->call_piped_taken);
	if (m->id == MSG_call_fed && (c = call_find(k, g, m->call_fed.channel)))
		join_fed(c, m->call_fed.bytes);
	if (m->id == MSG_call_input_end && (c = call_find(k, g, m->call_input_end.channel)))
		join_owner_input_ended(c);
	if (m->id == MSG_forward_open)
		return tunnel_open(g, &m->forward_open, err);
	if (m->id == MSG_forward_listen)
		return tunnel_listen(g, &m->forward_listen, err);
	if (m->id == MSG_call_leave) {
		join_leave(k, g, m->call_leave.channel);
		tunnel_leave(k, g, &m->call_leave.channel);
	}
	return 0; /* a channel without a call: its end and the message have crossed */
}

/* Whether its conn is gone, though nothing of it may be read. */
static bool
has_hung_up(const struct grant *g)
{
	struct pollfd p = {.fd = g->conn.fd, .events = POLLRDHUP};
	return poll(&p, 1, 0) > 0 && p.revents & (POLLHUP | POLLRDHUP | POLLERR);
}

static void
on_ready(void *ctx)
{
	struct grant *g = ctx;
	struct err err;

	if (g->waits) {
		watch_want(&g->conn.watch, 0);
		err_set(&err, ERR_UNAVAILABLE, "its conn is gone");
		if (has_hung_up(g))
			grant_cut(g, &err);
		return;
	}
	for (int i = 0; i < MESSAGES_AT_ONCE && !g->dead; i++) {
		const int got = wire_recv(&g->conn, &err);
		if (got == 0)
			return;
		if (got > 0 && g->conn.message.id == MSG_call_start && g->keeper->settle.closed) {
			g->waits = true;
			watch_want(&g->conn.watch, 0);
			return;
		}
		if (got < 0 || take_message(g, &err) < 0) {
			grant_cut(g, &err);
			return;
		}
	}
}

static void
go_on(void *ctx)
{
	struct keeper *k = ctx;
	struct err err;

	for (struct grant *g = k->grants, *next; g; g = next) {
		next = g->next;
		if (!g->waits)
			continue;
		if (k->settle.closed)
			return; /* again */
		g->waits = false;
		watch_want(&g->conn.watch, EPOLLIN | EPOLLOUT); /* its queue says the rest */
		if (take_message(g, &err) < 0)
			grant_cut(g, &err);
	}
}

/* When the turn ends: whoever reopens may be in the middle of one of these links. */
void
grant_go_on(struct keeper *k)
{
	if (grant_any_waits(k))
		loop_defer(&k->loop, go_on, k);
}

bool
grant_any_waits(const struct keeper *k)
{
	for (const struct grant *g = k->grants; g; g = g->next)
		if (g->waits)
			return true;
	return false;
}

static void
on_until(void *ctx)
{
	end(ctx);
}

void
grant_take_terms(struct keeper *k, const struct msg_grant_terms *m)
{
	free(k->terms.key);
	k->terms.key = xstrndup(m->key);
	k->terms.number = m->grant;
	k->terms.roles = m->roles;
	k->terms.forwards = m->forwards;
	allowances_take(&k->terms.allow, m->flags, m->permit_open, m->permit_listen);
}

/* Without terms of its own it allows nothing beside calls. */
static void
take_terms(struct keeper *k, struct grant *g)
{
	if (!k->terms.key || k->terms.number != g->number)
		return;
	g->key = steal(&k->terms.key);
	g->roles = k->terms.roles;
	g->forwards = k->terms.forwards;
	g->allow = k->terms.allow;
	k->terms.allow = (struct allowances){0};
}

void
grant_open(struct keeper *k, const struct msg_grant *m, int take_fd)
{
	struct grant *g = k->n_grants < GRANTS_MAX ? try_new(1, sizeof *g) : NULL;
	struct err err;

	if (!g) {
		close(take_fd);
		log_line("grant %llu refused: %u links to conns already",
			 (unsigned long long)m->grant, k->n_grants);
		if (wire_send(&k->manager, grant_closed, &err, .grant = m->grant) < 0)
			log_err(&err, "grant %llu", (unsigned long long)m->grant);
		return;
	}
	g->keeper = k;
	g->number = m->grant;
	take_terms(k, g);
	/* the row bounds each text to one byte less than its array */
	(void)!str_copy(m->principal, g->principal, sizeof g->principal, &err);
	(void)!str_copy(m->role, g->role, sizeof g->role, &err);
	(void)!str_copy(m->user, g->user, sizeof g->user, &err);
	(void)!str_copy(m->peer, g->peer, sizeof g->peer, &err);
	g->next = k->grants;
	g->link = &k->grants;
	if (g->next)
		g->next->link = &g->next;
	k->grants = g;
	k->n_grants++;
	if (wire_open(&g->conn, take_fd, ROLE_KEEPER, ROLE_CONN, PHASE_OPEN, &err) < 0 ||
	    wire_watch(&g->conn, &k->loop, on_ready, g, &err) < 0) {
		grant_cut(g, &err);
		return;
	}
	if (m->until_ns)
		timer_set(&k->loop, &g->until, m->until_ns, on_until, g);
}

static struct grant *
find(struct keeper *k, uint64_t number)
{
	for (struct grant *g = k->grants; g; g = g->next)
		if (g->number == number)
			return g;
	return NULL;
}

void
grant_agent(struct keeper *k, const struct msg_agent_listen *m, int take_fd)
{
	struct grant *g = find(k, m->grant);

	if (g)
		tunnel_agent(g, m->name, take_fd);
	else
		close(take_fd);
}

void
grant_revoke(struct keeper *k, uint64_t number)
{
	struct grant *g = find(k, number);
	if (g)
		end(g);
}

void
grant_adopt(struct keeper *k, uint64_t number, int fd)
{
	struct grant *g = find(k, number);
	const struct msg_manager_link body = {.grant = number};
	struct err err;

	if (g && wire_send_fds(&g->conn, MSG_manager_link, &body, &fd, 1, &err) < 0)
		grant_cut(g, &err);
}

static int
report_terms(struct keeper *k, const struct grant *g, struct err *err)
{
	if (!g->key)
		return 0;
	if (wire_send(&k->manager, grant_terms_report, err, .grant = g->number,
		      .key = str_of(g->key), .roles = g->roles) < 0)
		return -1;
	return wire_send(&k->manager, grant_allowances_report, err, .forwards = g->forwards,
			 .flags = g->allow.flags, .permit_open = permits_text(g->allow.open),
			 .permit_listen = permits_text(g->allow.listen));
}

int
grant_report_all(struct keeper *k, struct err *err)
{
	for (struct grant *g = k->grants; g; g = g->next)
		if (report_terms(k, g, err) < 0 ||
		    wire_send(&k->manager, grant_report, err, .grant = g->number,
			      .principal = str_of(g->principal), .role = str_of(g->role),
			      .user = str_of(g->user), .peer = str_of(g->peer)) < 0)
			return -1;
	return 0;
}

void
grant_close_all(struct keeper *k)
{
	while (k->grants)
		end(k->grants);
}
