/* Long chains are kept short: when the topmost layers of a head have become many, a worker makes
 * one layer of the same effect of them, beside the acts, and the next snapshot lists that in their
 * place. The snapshots that list the single ones stay as they are.
 *
 *   FLATTEN (the run as one directory) ▶ CAPTURE (that as an archive) ▶ UNPACK (into the cache) ▶
 * ready
 *
 * By levels of size: a run is merged when it has RUN_LEAST layers that are each below a bound, the
 * least of SMALL_BYTES, 8 times that, and so on. So a byte is written again once a level, and a
 * chain has at most 7 layers of each level; large layers are never written again. What is ready is
 * the session's until a snapshot lists it: the collector leaves it alone (collect_plan.c), a
 * restart forgets it. */
#include "base/fd.h"
#include "base/log.h"
#include "base/path.h"
#include "base/time.h"
#include "manager/session.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

enum { RUN_LEAST = 8, CHAIN_MAX = 4096, SMALL_BYTES = 256 << 10, LARGE_BYTES = 256 << 20 };
#define MERGE_MAX_NS (600 * NS_PER_S)

struct merge {
	struct session *s;
	struct job *job; /* owned */
	struct timer deadline;
	enum { MERGE_FLATTEN, MERGE_CAPTURE, MERGE_UNPACK, MERGE_READY } step;
	struct digest *parts; /* owned: the run, the lowest first */
	size_t n;
	struct digest flat;
	struct layer_row made;
	bool listed; /* by a snapshot that was sent to be written */
};

void
session_merge_stop(struct session *s)
{
	struct merge *g = s->merge;

	if (!g)
		return;
	s->merge = NULL;
	timer_cancel(&g->deadline);
	job_end(g->job);
	free(g->parts);
	loop_defer(&s->m->loop, free, g);
}

const struct layer_row *
session_merge_made(const struct session *s)
{
	return s->merge && s->merge->step == MERGE_READY ? &s->merge->made : NULL;
}

/* ---- which layers ---- */

/* So many of the topmost ones; 0: none need it. */
static size_t
find_run(const struct layer_row *layers, size_t n)
{
	for (uint64_t bound = SMALL_BYTES; bound <= LARGE_BYTES; bound *= RUN_LEAST) {
		uint64_t sum = 0;
		size_t run = 0;
		while (run < n && layers[n - 1 - run].bytes < bound && sum < LARGE_BYTES)
			sum += layers[n - 1 - run++].bytes;
		if (run >= RUN_LEAST)
			return run;
	}
	return 0;
}

/* Where the run stands in a chain; n: it does not. */
static size_t
find_parts(const struct merge *g, const struct layer_row *layers, size_t n)
{
	for (size_t at = 0; at + g->n <= n; at++) {
		size_t same = 0;
		while (same < g->n && digest_equal(&layers[at + same].digest, &g->parts[same]))
			same++;
		if (same == g->n)
			return at;
	}
	return n;
}

struct chain_rows {
	struct layer_row *at; /* owned */
	size_t n;
};

static int
take_layer(void *ctx, const struct layer_row *row, struct err *err)
{
	struct chain_rows *c = ctx;

	(void)err;
	if (c->n < CHAIN_MAX)
		c->at[c->n++] = *row;
	return 0;
}

/* ---- the worker's part ---- */

static void
fail(struct merge *g, const struct err *why)
{
	log_err(why, "session %s: its layers are not merged", g->s->row.name);
	session_merge_stop(g->s);
}

static void
on_deadline(void *ctx)
{
	struct err err;

	err_set(&err, ERR_TIMEOUT, "the worker does not answer");
	fail(ctx, &err);
}

static void on_job(void *ctx, const struct message *msg, const struct err *failure);

static int
ask_flatten(struct merge *g, struct err *err)
{
	const struct str parts = {(const char *)g->parts, g->n * sizeof *g->parts};
	auto_of(hasher) struct hasher *h = hasher_new();

	hasher_add(h, "merge", 5); /* not the name of a directory that is mounted */
	hasher_add(h, g->parts, g->n * sizeof *g->parts);
	g->flat = hasher_sum(h);
	if (job_start(g->s->m, g->s->row.name, -1, on_job, g, &g->job, err) < 0)
		return -1;
	return wire_send(job_wire(g->job), unpack, err, .flat = parts,
			 .into = {(const char *)g->flat.at, DIGEST_BYTES});
}

static int
ask_capture(struct merge *g, struct err *err)
{
	char name[80];

	job_end(g->job);
	g->job = NULL;
	snprintf(name, sizeof name, "layers/%s", digest_text(&g->flat).text);
	auto_close int dir = path_open(g->s->m->cache, name, O_RDONLY | O_DIRECTORY, err);
	if (dir < 0 || job_start(g->s->m, g->s->row.name, dir, on_job, g, &g->job, err) < 0)
		return -1;
	g->step = MERGE_CAPTURE;
	return wire_send(job_wire(g->job), capture, err, .trust_nothing = 1);
}

static int
ask_unpack(struct merge *g, const struct msg_captured *c, struct err *err)
{
	if (c->digest.len != DIGEST_BYTES || c->diff_id.len != DIGEST_BYTES || c->entries == 0)
		return err_set(err, ERR_UNAVAILABLE, "they have no effect");
	memcpy(g->made.digest.at, c->digest.at, DIGEST_BYTES);
	memcpy(g->made.diff_id.at, c->diff_id.at, DIGEST_BYTES);
	g->made.bytes = c->bytes;
	g->made.raw_bytes = c->raw_bytes;
	g->made.entries = c->entries;
	g->step = MERGE_UNPACK;
	return wire_send(job_wire(g->job), unpack, err,
			 .layers = {(const char *)g->made.digest.at, DIGEST_BYTES});
}

static void
ready(struct merge *g)
{
	manager_note_cached(g->s->m, &g->made.digest);
	g->step = MERGE_READY; /* before the job's end: the collector may be waiting for that */
	timer_cancel(&g->deadline);
	job_end(g->job);
	g->job = NULL;
	log_line("session %s: %zu layers are merged into %.12s", g->s->row.name, g->n,
		 digest_text(&g->made.digest).text);
}

static void
on_job(void *ctx, const struct message *msg, const struct err *failure)
{
	struct merge *g = ctx;
	struct err err;
	int result = 0;

	if (failure) {
		fail(g, failure);
		return;
	}
	timer_set(&g->s->m->loop, &g->deadline, time_now_ns() + MERGE_MAX_NS, on_deadline, g);
	if (msg->id == MSG_captured && g->step == MERGE_CAPTURE)
		result = ask_unpack(g, &msg->captured, &err);
	else if (msg->id == MSG_worked && g->step == MERGE_FLATTEN)
		result = ask_capture(g, &err);
	else if (msg->id == MSG_worked && g->step == MERGE_UNPACK)
		ready(g);
	if (result < 0)
		fail(g, &err);
}

void
session_merge_later(struct session *s)
{
	struct chain_rows c = {.n = 0};
	struct err err;

	if ((s->merge && s->merge->step != MERGE_READY) || !s->row.has_head ||
	    s->state == SESSION_DELETED || !node_stacks(&s->m->node) || s->m->stopping)
		return;
	auto_free struct layer_row *rows = c.at = xnew(CHAIN_MAX, sizeof *c.at);
	if (index_list_layers(&s->m->index, &s->row.head, take_layer, &c, &err) < 0)
		return;
	if (s->merge && find_parts(s->merge, rows, c.n) < c.n)
		return;        /* it waits for a snapshot */
	session_merge_stop(s); /* it was made for a head that was left */
	const size_t run = find_run(rows, c.n);
	if (run == 0)
		return;
	struct merge *g = xnew(1, sizeof *g);
	*g = (struct merge){.s = s, .n = run, .parts = xnew(run, sizeof *g->parts)};
	for (size_t i = 0; i < run; i++)
		g->parts[i] = rows[c.n - run + i].digest;
	s->merge = g;
	timer_set(&s->m->loop, &g->deadline, time_now_ns() + MERGE_MAX_NS, on_deadline, g);
	if (ask_flatten(g, &err) < 0)
		fail(g, &err);
}

/* ---- into a snapshot ---- */

void
session_merge_apply(struct session *s)
{
	struct merge *g = s->merge;

	if (!g || g->step != MERGE_READY)
		return;
	/* those that are of the present upper stay what its row says */
	const size_t others = s->n_layers - s->n_own;
	const size_t at = find_parts(g, s->layers, others);
	if (at == others)
		return;
	s->layers[at] = g->made;
	memmove(&s->layers[at + 1], &s->layers[at + g->n],
		(s->n_layers - at - g->n) * sizeof *s->layers);
	s->n_layers -= g->n - 1;
	s->n_base -= g->n - 1;
	g->listed = true;
}

void
session_merge_done(struct session *s)
{
	if (s->merge && s->merge->listed)
		session_merge_stop(s);
}
