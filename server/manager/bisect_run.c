/* One run of a bisect: a throwaway session on a snapshot, and in it one call, which the manager
 * asks for as a conn would.
 *
 *   STARTING ─told▶ ASKED ─call_started▶ RUNNING ─its end is in the index▶ judged */
#include "bisect_run.h"
#include "base/fd.h"
#include "base/time.h"
#include "manager/origin.h"
#include "manager/throwaway.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { CHANNEL = 1 };

void
bisect_run_end(struct run *r)
{
	struct session *s = r->s;

	if (!s)
		return;
	r->s = NULL;
	r->of->running--;
	if (r->linked)
		wire_close(&r->wire);
	r->linked = false;
	r->call[0] = '\0';
	fd_close(&r->journal);
	if (r->of->points[r->point].verdict == TESTED_NOW)
		r->of->points[r->point].verdict = UNKNOWN;
	throwaway_end(s);
}

/* Whether its call has ended, by the index. */
static void
look(struct run *r)
{
	auto_free struct call_row *row = xnew(1, sizeof *row);
	struct bisect *b = r->of;
	struct err err;

	records_flush(b->m);
	if (!r->s || !r->call[0]) /* that may have told us */
		return;
	const int got = index_find_call(&b->m->index, r->call, row, &err);
	if (got < 0)
		bisect_fail(b, &err);
	else if (got == 1 && row->ended_by[0])
		bisect_judge(r, row);
}

static void
on_lost(void *ctx, const struct err *why)
{
	struct run *r = ctx;
	struct bisect *b = r->of;
	struct err err = *why;

	if (!r->s)
		return;
	err_add(&err, "on %.12s", digest_text(&b->points[r->point].digest).text);
	bisect_fail(b, &err);
}

static void
on_message(struct run *r)
{
	struct message *msg = &r->wire.message;
	struct err err;

	if (msg->id == MSG_call_refused) {
		err_set(&err, err_from_number(msg->call_refused.code), "%.*s",
			(int)msg->call_refused.why.len, msg->call_refused.why.at);
		bisect_fail(r->of, &err);
	} else if (msg->id == MSG_call_started) {
		if (str_copy(msg->call_started.call, r->call, sizeof r->call, &err) < 0) {
			bisect_fail(r->of, &err);
			return;
		}
		fd_close(&r->journal);
		r->journal = fd_steal(&msg->fds[1]);
		/* whoever stays is waited for: the call would stand when its journal is full */
		if (wire_send(&r->wire, call_leave, &err, .channel = CHANNEL) < 0) {
			bisect_fail(r->of, &err);
			return;
		}
		look(r); /* its end may have come on the keeper's other link before this */
	}
}

static void
on_readable(void *ctx)
{
	struct run *r = ctx;
	struct err err;

	/* one a turn: what it brings may be the end of all runs */
	const int got = wire_recv(&r->wire, &err);
	if (got > 0)
		on_message(r);
	else if (got < 0) /* its session tells why */
		watch_remove(&r->wire.watch);
}

static int
ask_keeper(struct run *r, struct err *err)
{
	struct bisect *b = r->of;
	auto_buf env = BUF_MAX(256);
	int link;

	if (keeper_grant_self(r->s, b->principal, b->role, &link, err) < 0)
		return -1;
	if (wire_open(&r->wire, link, ROLE_CONN, ROLE_KEEPER, PHASE_OPEN, err) < 0)
		return -1;
	r->linked = true;
	/* detached: nobody's reading holds it up, and its end is known by its record */
	buf_text(&env, "BERTH_DETACH=1");
	buf_char(&env, '\0');
	if (b->timeout_ns)
		buf_fmt(&env, "BERTH_TIMEOUT=%llums",
			(unsigned long long)((b->timeout_ns + NS_PER_MS - 1) / NS_PER_MS));
	if (b->timeout_ns)
		buf_char(&env, '\0');
	if (wire_watch(&r->wire, &b->m->loop, on_readable, r, err) < 0)
		return -1;
	return wire_send(&r->wire, call_start, err, .channel = CHANNEL,
			 .command = str_of(b->command), .env = buf_view(&env));
}

static void
on_running(void *ctx, struct session *s, const struct err *failure)
{
	struct run *r = ctx;
	struct bisect *b = r->of;
	struct err err;

	(void)s;
	if (failure)
		err = *failure;
	if (!failure && ask_keeper(r, &err) == 0)
		return;
	err_add(&err, "on %.12s", digest_text(&b->points[r->point].digest).text);
	bisect_fail(b, &err);
}

/* Once: what its sessions do not have that the session has. */
static void
say_without(struct bisect *b, struct buf *given)
{
	if (b->said || !given->len || b->asker.json)
		return;
	b->said = true;
	auto_buf line = BUF_MAX(4500);
	buf_fmt(&line, "without what an operator gave: %s\n", buf_cstr(given));
	asker_print(&b->asker, buf_view(&line));
}

int
bisect_run_begin(struct bisect *b, struct run *r, size_t point, struct err *err)
{
	struct point *p = &b->points[point];
	auto_free struct snapshot_row *row = xnew(1, sizeof *row);
	auto_origin o = {.has_head = false};
	auto_buf given = BUF_MAX(4096);

	const int got = index_find_snapshot(&b->m->index, &p->digest, row, err);
	if (got != 1)
		return got < 0 ? -1
			       : err_set(err, ERR_ABSENT, "snapshot %.12s is not there any more",
					 digest_text(&p->digest).text);
	const struct session *of = session_find(b->m, str_of(row->session));
	if (!of)
		return err_set(err, ERR_ABSENT, "its session is not there any more");
	origin_of(of, row, &o);
	if (b->plain)
		origin_plain(b->m, &o, &given);
	o.choices.throwaway = THROWAWAY_BISECT;
	say_without(b, &given);
	*r = (struct run){.of = b, .point = point, .journal = -1};
	if (throwaway_make(of, &o, b->principal, on_lost, r, &r->s, err) < 0)
		return -1;
	p->verdict = TESTED_NOW;
	b->running++;
	struct want *w = want_new(b->m, WANT_RUN, NULL);
	w->told = on_running;
	w->told_ctx = r;
	session_want(r->s, w);
	return 0;
}
