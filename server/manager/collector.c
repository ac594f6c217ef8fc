/* The steps of a collection, and when there is one. */
#include "manager/collector.h"
#include "base/log.h"
#include "base/time.h"
#include "index/gc_rows.h"
#include "manager/collect_plan.h"
#include "manager/do.h"
#include "manager/session.h"

#include <stdio.h>
#include <stdlib.h>

#define SILENCE_MAX_NS (600 * NS_PER_S) /* of a worker, or of those that are waited for */
#define CLOCK_JUMP_NS  (60 * NS_PER_S)
#define NEXT_LEAST_NS  (1 * NS_PER_S)

enum step { COLLECT_IDLE, COLLECT_SCAN, COLLECT_WAIT, COLLECT_REMOVE, COLLECT_TREES };

struct collector {
	struct manager *m;
	enum step step;
	struct asker asker; /* conn NULL: nobody waits for an answer */
	struct job *job;    /* owned */
	struct collect_plan plan;
	uint64_t jobs; /* those that had begun when it was decided */
	size_t at;     /* items before this one were given to the worker */
	uint64_t freed_bytes, touched;
	struct timer next, silence;
	uint64_t real_ns, boot_ns; /* when both clocks were looked at last */
	bool deferred;
};

static void go_on(struct collector *g);

/* ---- its end ---- */

static uint64_t
sooner(uint64_t due, uint64_t at_ns, uint64_t real_ns, uint64_t now_ns)
{
	if (at_ns + 2 * NS_PER_S < real_ns)
		return due; /* it was due at the last one, too */
	const uint64_t then = now_ns + NEXT_LEAST_NS + (at_ns > real_ns ? at_ns - real_ns : 0);
	return then < due ? then : due;
}

static void
on_time(void *ctx)
{
	struct collector *g = ctx;
	struct err err;

	if (g->m->stopping || g->m->closing)
		return;
	if (g->step == COLLECT_IDLE && collector_run(g->m, NULL, false, &err) < 0) {
		log_err(&err, "gc");
		collector_note(g->m);
	}
}

void
collector_note(struct manager *m)
{
	struct collector *g = m->collector;
	const uint64_t now = time_now_ns(), real = time_real_ns();
	uint64_t due = now + m->config.gc_interval, expiry = 0;
	struct err err;

	if (!g || g->step != COLLECT_IDLE || m->config.gc_interval == 0)
		return;
	for (const struct session *s = m->sessions; s; s = s->next)
		if (s->state == SESSION_DELETED)
			due = sooner(due, s->row.deleted_ns + m->config.tombstone, real, now);
	if (gc_rows_next_expiry(&m->index, &expiry, &err) < 0)
		log_err(&err, "gc: the next end of a snapshot");
	if (expiry)
		due = sooner(due, expiry, real, now);
	timer_set(&m->loop, &g->next, due, on_time, g);
}

static void
stop(struct collector *g)
{
	timer_cancel(&g->silence);
	job_end(g->job);
	g->job = NULL;
	collect_plan_done(&g->plan);
	g->step = COLLECT_IDLE;
}

static void
note_end(const struct collector *g, const struct err *failure)
{
	uint64_t counts[GONE_KINDS] = {0};

	for (size_t i = 0; i < g->plan.n_gone; i++)
		counts[g->plan.gone[i].kind]++;
	if (g->plan.dry || (!failure && g->plan.n_gone == 0 && g->freed_bytes == 0))
		return;
	audit_write(
	    &g->m->audit, "gc", AUDIT_NUMBER("snapshots", counts[GONE_SNAPSHOT]),
	    AUDIT_NUMBER("sessions", counts[GONE_SESSION]),
	    AUDIT_NUMBER("blobs", counts[GONE_BLOB]), AUDIT_NUMBER("cached", counts[GONE_CACHE]),
	    AUDIT_NUMBER("uppers", counts[GONE_UPPER]), AUDIT_NUMBER("bytes", g->freed_bytes),
	    AUDIT_TEXT("result", err_json(failure ? failure->code : ERR_NONE)));
	log_line("gc: %llu snapshots, %llu sessions, %llu blobs, %llu cached layers, %llu uppers: "
		 "%llu bytes freed",
		 (unsigned long long)counts[GONE_SNAPSHOT],
		 (unsigned long long)counts[GONE_SESSION], (unsigned long long)counts[GONE_BLOB],
		 (unsigned long long)counts[GONE_CACHE], (unsigned long long)counts[GONE_UPPER],
		 (unsigned long long)g->freed_bytes);
}

static void
finish(struct collector *g, const struct err *failure)
{
	struct asker asker = g->asker;
	struct err err;

	if (failure)
		log_err(failure, "gc");
	note_end(g, failure);
	g->asker.conn = NULL;
	if (asker.conn && !failure)
		do_gc_answer(&asker, &g->plan, g->freed_bytes);
	if (asker.conn && failure) {
		err = *failure;
		err_what(&err, "gc");
		asker_end(&asker, &err);
	}
	stop(g);
	collector_note(g->m);
}

static void
on_silence(void *ctx)
{
	struct collector *g = ctx;
	struct err err;

	err_set(&err, g->step == COLLECT_WAIT ? ERR_AGAIN : ERR_TIMEOUT, "waited 10 minutes for %s",
		collector_waits_for(g->m));
	finish(g, &err);
}

const char *
collector_waits_for(const struct manager *m)
{
	static const char *const words[] = {
	    [COLLECT_IDLE] = "",
	    [COLLECT_SCAN] = "the store to be listed",
	    [COLLECT_WAIT] = "jobs and acts that were under way when it was decided",
	    [COLLECT_REMOVE] = "blobs to be removed",
	    [COLLECT_TREES] = "directories to be removed",
	};
	return words[m->collector ? m->collector->step : COLLECT_IDLE];
}

static void
enter(struct collector *g, enum step step)
{
	g->step = step;
	timer_set(&g->m->loop, &g->silence, time_now_ns() + SILENCE_MAX_NS, on_silence, g);
}

/* ---- removal ---- */

static void
add_removed_session(const struct collector *g, struct buf *ids)
{
	for (size_t i = 0; i < g->plan.n_gone; i++)
		if (g->plan.gone[i].kind == GONE_SESSION)
			buf_add(ids, g->plan.gone[i].session, strlen(g->plan.gone[i].session) + 1);
	for (size_t i = 0; i < g->plan.n; i++) { /* of one whose rows went before */
		const struct collect_word *w = &g->plan.items[i];
		const char *id = (const char *)w->digest.at;
		if (w->kind == COLLECT_WORD_SESSION && w->has_of &&
		    !session_find(g->m, (struct str){id, strnlen(id, DIGEST_BYTES)}))
			buf_add(ids, id, strnlen(id, DIGEST_BYTES - 1) + 1);
	}
}

/* One page of what goes: refs in a first round over the items, then the rest. */
static void
fill_page(struct collector *g, struct buf *page)
{
	const struct collect_plan *p = &g->plan;

	for (; g->at < 2 * p->n && page->len < COLLECT_PAGE_MAX_BYTES; g->at++) {
		const bool refs = g->at < p->n;
		const size_t i = refs ? g->at : g->at - p->n;
		if (p->marks[i] & PLAN_GOES && (p->items[i].kind == COLLECT_WORD_REF) == refs)
			collect_word_put(page, &p->items[i]);
	}
}

static int
send_removals(struct collector *g, struct err *err)
{
	auto_buf page = BUF_MAX(COLLECT_PAGE_MAX_BYTES), ids = BUF_MAX(16384);
	const bool first = g->at == 0;

	if (first)
		add_removed_session(g, &ids);
	/* More sessions than fit: the refs of the others are found without a row the next time. */
	const size_t whole = ids.len - ids.len % (strlen("s_") + ID_RANDOM_CHARS + 1);
	if (collect_plan_again(&g->plan, err) < 0)
		return -1;
	fill_page(g, &page);
	if (page.len == 0 && !(first && whole)) {
		enter(g, COLLECT_TREES);
		return wire_send(job_wire(g->job), collect_trees, err, .seq = 0);
	}
	return wire_send(job_wire(g->job), collect_remove, err, .sessions = {ids.at, whole},
			 .items = buf_view(&page));
}

/* ---- events ---- */

static int
take_page(struct collector *g, const struct msg_collect_found *f, struct err *err)
{
	struct str items = f->items;
	struct collect_word w;

	while (items.len) {
		if (collect_word_take(&items, &w, err) < 0)
			return -1;
		collect_plan_add(&g->plan, &w);
	}
	if (g->plan.n < f->count && f->items.len)
		return wire_send(job_wire(g->job), collect_scan, err, .from = g->plan.n);
	if (collect_plan_decide(&g->plan, err) < 0)
		return -1;
	if (g->plan.dry)
		return 1;
	g->jobs = g->m->job_count;
	for (struct session *s = g->m->sessions; s; s = s->next)
		s->awaited = s->step != STEP_IDLE;
	collect_put_aside(&g->plan);
	collect_stray_sessions(&g->plan);
	enter(g, COLLECT_WAIT);
	go_on(g);
	return 0;
}

static int
take_answer(struct collector *g, const struct message *msg, struct err *err)
{
	switch ((int)msg->id) {
	case MSG_collect_found:
		return g->step == COLLECT_SCAN ? take_page(g, &msg->collect_found, err) : 0;
	case MSG_collect_removed:
		g->freed_bytes += msg->collect_removed.bytes;
		g->touched += msg->collect_removed.touched;
		return send_removals(g, err);
	case MSG_worked:
		if (g->step != COLLECT_TREES)
			return 0;
		g->freed_bytes += msg->worked.bytes;
		return gc_rows_end_dying(&g->m->index, err) < 0 ? -1 : 1;
	default:
		enter(g, g->step); /* progress */
		return 0;
	}
}

static void
on_job(void *ctx, const struct message *msg, const struct err *failure)
{
	struct collector *g = ctx;
	struct err err;

	if (failure) {
		finish(g, failure);
		return;
	}
	const int got = take_answer(g, msg, &err);
	if (got)
		finish(g, got < 0 ? &err : NULL);
}

/* An act commits its rows when its job has ended, and more than one job may have a part in it. */
static bool
any_awaited(const struct manager *m)
{
	for (const struct session *s = m->sessions; s; s = s->next)
		if (s->awaited)
			return true;
	return false;
}

static void
go_on(struct collector *g)
{
	struct err err;

	if (g->step != COLLECT_WAIT || jobs_before(g->m, g->jobs, g->job) || any_awaited(g->m))
		return;
	enter(g, COLLECT_REMOVE);
	g->at = 0;
	if (send_removals(g, &err) < 0)
		finish(g, &err);
}

static void
go_on_later(void *ctx)
{
	struct collector *g = ctx;

	g->deferred = false;
	if (!g->m->closing)
		go_on(g);
}

void
collector_job_ended(struct manager *m)
{
	struct collector *g = m->collector;

	if (!g || g->step != COLLECT_WAIT || g->deferred)
		return;
	g->deferred = true;
	loop_defer(&m->loop, go_on_later, g);
}

/* ---- its begin ---- */

/* What is dropped by the wall clock is not dropped right after that has jumped. */
static bool
clock_is_steady(struct collector *g)
{
	const uint64_t real = time_real_ns(), boot = time_now_ns();
	const int64_t moved = (int64_t)(real - g->real_ns) - (int64_t)(boot - g->boot_ns);
	const bool steady = llabs(moved) <= (long long)CLOCK_JUMP_NS;

	if (!steady) {
		log_line("gc: the clock has moved by %lld s: nothing is dropped by its age",
			 (long long)(moved / (int64_t)NS_PER_S));
		audit_write(&g->m->audit, "clock",
			    AUDIT_TEXT("moved", moved > 0 ? "forward" : "back"),
			    AUDIT_NUMBER("seconds", (uint64_t)llabs(moved) / NS_PER_S));
	}
	g->real_ns = real;
	g->boot_ns = boot;
	return steady;
}

int
collector_run(struct manager *m, const struct asker *asker, bool dry, struct err *err)
{
	struct collector *g = m->collector;

	if (g->step != COLLECT_IDLE) {
		err_set(err, ERR_AGAIN, "a collection is under way, and waits for %s",
			collector_waits_for(m));
		return -1;
	}
	timer_cancel(&g->next);
	const bool steady = clock_is_steady(g);
	g->plan = (struct collect_plan){.m = m, .dry = dry, .by_clock = asker || steady};
	g->freed_bytes = g->touched = 0;
	if (job_start(m, "gc", m->scratch, on_job, g, &g->job, err) < 0) {
		stop(g);
		return -1;
	}
	enter(g, COLLECT_SCAN);
	if (wire_send(job_wire(g->job), collect_scan, err, .from = 0) < 0) {
		stop(g);
		return -1;
	}
	if (asker)
		g->asker = *asker;
	return 0;
}

void
collector_begin(struct manager *m)
{
	m->collector = xnew(1, sizeof *m->collector);
	m->collector->m = m;
	m->collector->real_ns = time_real_ns();
	m->collector->boot_ns = time_now_ns();
	collector_note(m);
}

void
collector_end(struct manager *m)
{
	struct collector *g = m->collector;

	if (!g)
		return;
	m->collector = NULL;
	timer_cancel(&g->next);
	stop(g);
	loop_defer(&m->loop, free, g);
}

void
collector_forget_conn(const struct conn *c, const uint32_t *seq)
{
	struct collector *g = c->m->collector;

	if (g && g->asker.conn == c && (!seq || g->asker.seq == *seq))
		asker_forget(&g->asker);
}
