/* What goes: snapshots by retention, removed sessions past their day, then what nothing refers to.
 */
#include "manager/collect_plan.h"
#include "base/time.h"
#include "index/gc_rows.h"
#include "manager/retention.h"
#include "manager/session.h"

#include <stdio.h>
#include <stdlib.h>

void
collect_plan_done(struct collect_plan *p)
{
	free(p->items);
	free(p->marks);
	free(p->gone);
	*p = (struct collect_plan){0};
}

void
collect_plan_add(struct collect_plan *p, const struct collect_word *w)
{
	p->items = xgrow(p->items, p->n, &p->cap, sizeof *p->items);
	p->items[p->n++] = *w;
}

struct gone *
collect_plan_gone(struct collect_plan *p, enum gone_kind kind, const char *why, uint64_t bytes)
{
	p->gone = xgrow(p->gone, p->n_gone, &p->gone_cap, sizeof *p->gone);
	struct gone *g = &p->gone[p->n_gone++];
	*g = (struct gone){.kind = kind, .why = why, .bytes = bytes};
	p->bytes += bytes;
	return g;
}

static int
by_digest(const void *a, const void *b)
{
	const struct collect_word *x = a, *y = b;
	const int order = memcmp(x->digest.at, y->digest.at, DIGEST_BYTES);
	return order ? order : (int)x->kind - (int)y->kind;
}

struct collect_word *
collect_plan_find(const struct collect_plan *p, uint8_t kind, const struct digest *d)
{
	const struct collect_word key = {.kind = kind, .digest = *d};

	return p->n ? bsearch(&key, p->items, p->n, sizeof *p->items, by_digest) : NULL;
}

bool
collect_plan_is_old(const struct collect_plan *p, uint64_t since_ns)
{
	return since_ns <= p->now_ns && p->now_ns - since_ns >= p->m->config.gc_age;
}

bool
collect_is_busy(const struct session *s)
{
	return s->step != STEP_IDLE || s->wants || s->current || s->job || s->unsynced;
}

/* ---- what is alive ---- */

struct marking {
	struct collect_plan *p;
	uint8_t mark;
};

static void
mark_kind(const struct marking *k, uint8_t kind, const struct digest *d)
{
	const struct collect_word *w = collect_plan_find(k->p, kind, d);

	if (w)
		k->p->marks[w - k->p->items] |= k->mark;
}

static int
mark_digest(void *ctx, const struct digest *d, struct err *err)
{
	const struct marking *k = ctx;

	(void)err;
	mark_kind(k, COLLECT_WORD_BLOB, d);
	mark_kind(k, COLLECT_WORD_IDX, d);
	return 0;
}

/* Its ref names its config. Where nobody can name it, no blob can be said to be of no use. */
static int
mark_manifest(void *ctx, const struct digest *d, struct err *err)
{
	const struct marking *k = ctx;
	const struct collect_word *ref = collect_plan_find(k->p, COLLECT_WORD_REF, d);

	(void)err;
	mark_kind(k, COLLECT_WORD_BLOB, d);
	mark_kind(k, COLLECT_WORD_REF, d);
	if (ref && ref->has_of)
		mark_kind(k, COLLECT_WORD_BLOB, &ref->of);
	else if (k->p->unsure++ == 0)
		k->p->unsure_of = *d;
	return 0;
}

static int
mark_alive(struct collect_plan *p, uint8_t mark, struct err *err)
{
	struct marking k = {p, mark};

	p->unsure = 0;
	if (gc_rows_manifests(&p->m->index, mark_manifest, &k, err) < 0)
		return -1;
	for (const struct session *s = p->m->sessions; s; s = s->next) {
		const struct layer_row *made =
		    session_merge_made(s); /* a snapshot may list it soon */
		if (made && mark_digest(&k, &made->digest, err) < 0)
			return -1;
	}
	return gc_rows_layers(&p->m->index, mark_digest, &k, err) < 0 ? -1 : 0;
}

/* ---- snapshots ---- */

struct holds {
	struct collect_plan *p;
	struct held {
		struct digest d;
		char holder[ID_BYTES];
		enum gc_hold why;
	} * at; /* owned */
	size_t n, cap;
};

static int
take_hold(void *ctx, enum gc_hold why, const struct digest *d, const char *holder, struct err *err)
{
	struct holds *h = ctx;

	(void)err;
	h->at = xgrow(h->at, h->n, &h->cap, sizeof *h->at);
	struct held *one = &h->at[h->n++];
	*one = (struct held){.d = *d, .why = why};
	snprintf(one->holder, sizeof one->holder, "%s", holder);
	return 0;
}

static int
by_held(const void *a, const void *b)
{
	return memcmp(((const struct held *)a)->d.at, ((const struct held *)b)->d.at, DIGEST_BYTES);
}

struct list {
	struct collect_plan *p;
	const struct holds *holds;
	const struct session *s;
	bool removed; /* the session is past its day: only what others stand on stays */
	struct snapshot_row *rows;    /* owned */
	struct retention_row *judged; /* owned */
	size_t n, cap, judged_cap;
};

/* For a removed session only the heads and redos of others count: what else stood on it is a name.
 */
static bool
is_held(const struct list *l, const struct snapshot_row *row)
{
	const struct held key = {.d = row->digest};
	const struct holds *h = l->holds;
	const struct held *at = h->n ? bsearch(&key, h->at, h->n, sizeof *h->at, by_held) : NULL;

	if (!l->removed && (row->facts.pinned || row->facts.name[0]))
		return true;
	while (at && at > h->at && digest_equal(&at[-1].d, &row->digest))
		at--;
	for (; at && at < h->at + h->n && digest_equal(&at->d, &row->digest); at++)
		if (!l->removed || (at->why != GC_FORKED && strcmp(at->holder, row->session) != 0))
			return true;
	return false;
}

static int
take_snapshot(void *ctx, const struct snapshot_row *row, struct err *err)
{
	struct list *l = ctx;

	(void)err;
	l->rows = xgrow(l->rows, l->n, &l->cap, sizeof *l->rows);
	l->judged = xgrow(l->judged, l->n, &l->judged_cap, sizeof *l->judged);
	l->rows[l->n] = *row;
	l->judged[l->n++] = (struct retention_row){.created_ns = row->created_ns,
						   .expires_ns = row->facts.expires_ns,
						   .held = is_held(l, row),
						   .goes = l->removed};
	return 0;
}

static int
drop_chosen(struct list *l, struct err *err)
{
	struct collect_plan *p = l->p;

	for (size_t i = 0; i < l->n; i++) {
		const struct snapshot_row *row = &l->rows[i];
		if (!l->judged[i].goes || l->judged[i].held)
			continue;
		struct gone *g =
		    collect_plan_gone(p, GONE_SNAPSHOT,
				      l->removed              ? "its session was removed"
				      : row->facts.expires_ns ? "it has come to its end"
							      : "retention lets it go",
				      0);
		g->digest = row->digest;
		snprintf(g->session, sizeof g->session, "%s", l->s->row.id);
		snprintf(g->name, sizeof g->name, "%s", l->s->row.name);
		if (gc_rows_drop_snapshot(&p->m->index, &row->digest, err) < 0)
			return -1;
	}
	return 0;
}

static int
choose_snapshots(struct collect_plan *p, const struct holds *holds, struct session *s,
		 struct err *err)
{
	const struct manager *m = p->m;
	const bool deleted = s->state == SESSION_DELETED;
	struct list l = {.p = p, .holds = holds, .s = s};

	if (!p->by_clock || collect_is_busy(s))
		return 0;
	l.removed = deleted && s->row.deleted_ns + m->config.tombstone <= p->now_ns;
	if (deleted && !l.removed)
		return 0;
	int result = index_list_snapshots(&p->m->index, s->row.id, take_snapshot, &l, err);
	if (result == 0 && !l.removed) {
		struct retention rule = s->retention.set ? s->retention.rule : m->retention;
		retention_choose(&rule, l.judged, l.n, p->now_ns);
	}
	if (result == 0)
		result = drop_chosen(&l, err);
	if (result == 0 && l.removed) {
		result = gc_rows_drop_session(&p->m->index, s->row.id, err);
		if (result == 1) {
			struct gone *g = collect_plan_gone(p, GONE_SESSION, "it was removed", 0);
			snprintf(g->session, sizeof g->session, "%s", s->row.id);
			snprintf(g->name, sizeof g->name, "%s", s->row.name);
		}
	}
	free(l.rows);
	free(l.judged);
	return result < 0 ? -1 : 0;
}

/* ---- the store ---- */

/* An index that is older than its store (a copy that was put back) must not be believed. */
static int
check_known(struct collect_plan *p, struct err *err)
{
	for (size_t i = 0; i < p->n; i++) {
		const struct collect_word *w = &p->items[i];
		if (w->kind != COLLECT_WORD_SESSION || w->has_of)
			continue;
		const struct str id = {(const char *)w->digest.at,
				       strnlen((const char *)w->digest.at, DIGEST_BYTES)};
		const struct session *s = session_find(p->m, id);
		if (s && str_is(id, s->row.id))
			continue;
		err_set(
		    err, ERR_CORRUPT,
		    "the store tells of session %.*s, and index.db does not: nothing is removed",
		    (int)id.len, id.at);
		return err_hint(err, "is index.db an old copy? berthd --reindex makes it anew");
	}
	return 0;
}

static int
choose_items(struct collect_plan *p, struct err *err)
{
	for (size_t i = 0; i < p->n; i++) {
		const struct collect_word *w = &p->items[i];
		const bool is_blob = w->kind == COLLECT_WORD_BLOB || w->kind == COLLECT_WORD_IDX;
		if ((!is_blob && w->kind != COLLECT_WORD_REF) || p->marks[i] & PLAN_ALIVE)
			continue;
		if (!collect_plan_is_old(p, w->mtime_ns) || (is_blob && p->unsure))
			continue;
		p->marks[i] |= PLAN_GOES;
		const bool orphan = !(p->marks[i] & PLAN_WAS_ALIVE);
		struct gone *g =
		    collect_plan_gone(p, is_blob ? GONE_BLOB : GONE_REF,
				      w->kind == COLLECT_WORD_IDX ? "an index without its layer"
				      : orphan && is_blob         ? "nothing has referred to it"
				      : orphan                    ? "of no snapshot in the index"
								  : "nothing refers to it any more",
				      w->bytes);
		g->digest = w->digest;
		if (gc_rows_put_dying(&p->m->index, &w->digest, p->now_ns, err) < 0)
			return -1;
	}
	return 0;
}

static int
decide(struct collect_plan *p, const struct holds *holds, struct err *err)
{
	if (mark_alive(p, PLAN_WAS_ALIVE, err) < 0 || gc_rows_end_dying(&p->m->index, err) < 0)
		return -1;
	for (struct session *s = p->m->sessions; s; s = s->next)
		if (choose_snapshots(p, holds, s, err) < 0)
			return -1;
	if (gc_rows_drop_layers(&p->m->index, err) < 0 || mark_alive(p, PLAN_ALIVE, err) < 0 ||
	    choose_items(p, err) < 0 || collect_uppers(p, err) < 0)
		return -1;
	return collect_cache(p, err);
}

int
collect_plan_decide(struct collect_plan *p, struct err *err)
{
	struct index *ix = &p->m->index;
	struct holds holds = {.p = p};

	p->now_ns = time_real_ns();
	p->marks = xnew(p->n + 1, sizeof *p->marks);
	if (p->n)
		qsort(p->items, p->n, sizeof *p->items, by_digest);
	if (check_known(p, err) < 0 || index_begin(ix, err) < 0)
		return -1;
	int result = gc_rows_holds(ix, take_hold, &holds, err);
	if (result == 0 && holds.n)
		qsort(holds.at, holds.n, sizeof *holds.at, by_held);
	if (result == 0)
		result = decide(p, &holds, err);
	free(holds.at);
	if (result < 0 || p->dry) {
		index_rollback(ix);
		return result;
	}
	return index_commit(ix, err);
}

int
collect_plan_again(struct collect_plan *p, struct err *err)
{
	for (size_t i = 0; i < p->n; i++)
		p->marks[i] &= (uint8_t)~PLAN_ALIVE;
	if (mark_alive(p, PLAN_ALIVE, err) < 0)
		return -1;
	for (size_t i = 0; i < p->n; i++)
		if (p->marks[i] & PLAN_ALIVE)
			p->marks[i] &= (uint8_t)~PLAN_GOES;
	return 0;
}
