/* Directories that go: kept uppers that nothing will stack soon, layers of the cache, what removed
 * sessions leave. The manager gives each another name ("gone.X" beside it, or in scratch), in the
 * turn that decides, so that none is found again; a worker removes what has such a name. */
#include "base/fd.h"
#include "base/log.h"
#include "base/path.h"
#include "base/time.h"
#include "index/gc_rows.h"
#include "manager/collect_plan.h"
#include "manager/session.h"
#include "manager/stack.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

typedef int (*name_fn)(void *ctx, int dir, const char *name, struct err *err);

static int
each_name(int dir, name_fn fn, void *ctx, struct err *err)
{
	const int copy = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *list = copy < 0 ? NULL : fdopendir(copy);
	const struct dirent *e;
	int result = 0;

	if (!list) {
		const int why = errno;
		if (copy >= 0)
			close(copy);
		return err_sys(err, why, "list a directory of sessions");
	}
	while (result == 0 && (e = readdir(list)) != NULL)
		result = fn(ctx, dirfd(list), e->d_name, err);
	closedir(list);
	return result;
}

static uint64_t
made_ns(int dir, const char *name)
{
	struct stat st;

	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return UINT64_MAX;
	return (uint64_t)st.st_ctim.tv_sec * NS_PER_S + (uint64_t)st.st_ctim.tv_nsec;
}

/* ---- kept uppers ---- */

struct uppers {
	struct collect_plan *p;
	struct session *s;
	struct upper_row rows[256]; /* of a session; more wait for the next time */
	struct digest *layers[256]; /* owned: of each row */
	size_t n;
};

static int
take_row(void *ctx, const struct upper_row *row, struct err *err)
{
	struct uppers *u = ctx;

	(void)err;
	if (u->n == sizeof u->rows / sizeof *u->rows)
		return 0;
	struct digest *layers = xnew(row->n_layers + 1, sizeof *layers);
	if (row->n_layers)
		memcpy(layers, row->layers, row->n_layers * sizeof *layers);
	u->rows[u->n] = *row;
	u->rows[u->n].layers = u->layers[u->n] = layers;
	u->n++;
	return 0;
}

static const struct upper_row *
row_of(const struct uppers *u, unsigned n)
{
	for (size_t i = 0; i < u->n; i++)
		if (u->rows[i].n == n)
			return &u->rows[i];
	return NULL;
}

/* Its archives are all in the store, so that it can be had again. */
static bool
is_archived(const struct uppers *u, const struct upper_row *row)
{
	for (size_t i = 0; i < row->n_layers; i++)
		if (!collect_plan_find(u->p, COLLECT_WORD_BLOB, &row->layers[i]))
			return false;
	return row->n_layers > 0;
}

/* Under a session that runs. An upper without a row has never been stacked, but where the index is
 * a new one (reindex.h): what ran when that was made may stand on it until its next pause. */
static bool
may_be_mounted(const struct session *s, const struct upper_row *row)
{
	for (size_t i = 0; row && i < row->n_layers; i++)
		if (session_holds(s, &row->layers[i]))
			return true;
	return row == NULL;
}

static bool
upper_goes(const struct uppers *u, const struct upper_row *row, uint64_t made)
{
	const struct session *s = u->s;
	const uint64_t since = s->state == SESSION_RUNNING ? made : s->row.used_ns;

	if (s->state == SESSION_RUNNING && may_be_mounted(s, row))
		return false;
	if (!row) /* what was captured of it was nothing, or it stood on a head that was left */
		return collect_plan_is_old(u->p, made);
	return u->p->by_clock && since <= u->p->now_ns &&
	       u->p->now_ns - since >= u->p->m->config.warm_keep && is_archived(u, row);
}

static int
judge_upper(void *ctx, int dir, const char *name, struct err *err)
{
	struct uppers *u = ctx;
	uint64_t n;

	if (!str_starts(str_of(name), "upper.") ||
	    num_parse(str_of(name + 6), 0, u->s->row.upper - 1, &n, err) < 0)
		return 0;
	const struct upper_row *row = row_of(u, (unsigned)n);
	if (!upper_goes(u, row, made_ns(dir, name)))
		return 0;
	struct gone *g = collect_plan_gone(
	    u->p, GONE_UPPER, row ? "its archives hold it" : "nothing of it was new", 0);
	snprintf(g->session, sizeof g->session, "%s", u->s->row.id);
	snprintf(g->name, sizeof g->name, "%s", u->s->row.name);
	g->upper = (unsigned)n;
	return row ? index_drop_upper(&u->p->m->index, u->s->row.id, (unsigned)n, err) : 0;
}

int
collect_uppers(struct collect_plan *p, struct err *err)
{
	auto_free struct uppers *u = xnew(1, sizeof *u);

	for (struct session *s = p->m->sessions; s; s = s->next) {
		const bool rests = s->state == SESSION_PAUSED || s->state == SESSION_RUNNING;
		struct err absent;
		if (!rests || s->row.upper == 0 || s->row.unclean || s->errand ||
		    collect_is_busy(s)) /* an errand may put rows of uppers */
			continue;
		*u = (struct uppers){.p = p, .s = s};
		auto_close int dir =
		    path_open(p->m->sessions_dir, s->row.id, O_RDONLY | O_DIRECTORY, &absent);
		if (dir < 0)
			continue;
		const int result = index_list_uppers(&p->m->index, s->row.id, take_row, u, err) < 0
				       ? -1
				       : each_name(dir, judge_upper, u, err);
		for (size_t i = 0; i < u->n; i++)
			free(u->layers[i]);
		if (result < 0)
			return -1;
	}
	return 0;
}

/* ---- the cache ---- */

struct wanted {            /* layers that the heads of sessions would be started from */
	struct digest *at; /* owned, sorted */
	size_t n, cap;
};

static void
want(struct wanted *w, const struct digest *d)
{
	w->at = xgrow(w->at, w->n, &w->cap, sizeof *w->at);
	w->at[w->n++] = *d;
}

struct layer_list {
	struct layer_row *at; /* owned */
	size_t n, cap;
};

static int
take_layer(void *ctx, const struct layer_row *row, struct err *err)
{
	struct layer_list *c = ctx;

	(void)err;
	c->at = xgrow(c->at, c->n, &c->cap, sizeof *c->at);
	c->at[c->n++] = *row;
	return 0;
}

static int
want_heads(struct collect_plan *p, struct wanted *w, struct err *err)
{
	struct layer_list c = {0};
	int result = 0;

	for (struct session *s = p->m->sessions; s && result == 0; s = s->next) {
		struct digest flat;
		for (size_t i = 0; i < s->n_mounted; i++)
			want(w, &s->mounted[i]);
		if (!s->row.has_head || s->state == SESSION_DELETED)
			continue;
		c.n = 0;
		result = index_list_layers(&p->m->index, &s->row.head, take_layer, &c, err);
		const size_t n_flat = stack_flat(p->m, c.at, c.n, &flat);
		for (size_t i = n_flat; i < c.n; i++)
			want(w, &c.at[i].digest);
		if (n_flat)
			want(w, &flat);
	}
	free(c.at);
	return result < 0 ? -1 : 0;
}

static int
by_bytes(const void *a, const void *b)
{
	return memcmp(a, b, DIGEST_BYTES);
}

static bool
is_wanted(const struct wanted *w, const struct digest *d)
{
	return w->n && bsearch(d, w->at, w->n, sizeof *w->at, by_bytes);
}

static bool
is_mounted(const struct manager *m, const struct digest *d)
{
	for (const struct session *s = m->sessions; s; s = s->next)
		if (session_holds(s, d))
			return true;
	return false;
}

static int
least_used_first(const void *a, const void *b)
{
	const struct collect_word *const *x = a, *const *y = b;
	return (*x)->mtime_ns < (*y)->mtime_ns ? -1 : (*x)->mtime_ns > (*y)->mtime_ns;
}

static void
let_cached_go(struct collect_plan *p, const struct collect_word *w, const char *why)
{
	collect_plan_gone(p, GONE_CACHE, why, w->bytes)->digest = w->digest;
}

int
collect_cache(struct collect_plan *p, struct err *err)
{
	struct wanted w = {0};
	auto_free const struct collect_word **left = xnew(p->n + 1, sizeof *left);
	uint64_t held = 0;
	size_t n = 0;

	if (want_heads(p, &w, err) < 0) {
		free(w.at);
		return -1;
	}
	if (w.n)
		qsort(w.at, w.n, sizeof *w.at, by_bytes);
	for (size_t i = 0; i < p->n; i++) {
		const struct collect_word *c = &p->items[i];
		if (c->kind != COLLECT_WORD_CACHE || is_mounted(p->m, &c->digest))
			continue;
		if (!is_wanted(&w, &c->digest) && collect_plan_is_old(p, c->mtime_ns)) {
			let_cached_go(p, c, "no session stands on it");
			continue;
		}
		held += c->bytes;
		left[n++] = c;
	}
	free(w.at);
	if (n)
		qsort(left, n, sizeof *left, least_used_first);
	for (size_t i = 0; i < n && held > p->m->config.cache_max; i++) {
		held -= left[i]->bytes < held ? left[i]->bytes : held;
		let_cached_go(p, left[i], "the cache has its maximum");
	}
	return 0;
}

/* ---- other names ---- */

static void
put_aside(int from, const char *name, int to, const char *gone)
{
	struct err err;

	if (renameat(from, name, to, gone) < 0 && errno != ENOENT) {
		err_sys(&err, errno, "put %s aside", name);
		log_err(&err, "gc");
	}
}

static void
forget_cached(struct manager *m, const struct digest *d)
{
	for (size_t i = 0; i < m->n_cached; i++)
		if (digest_equal(&m->cached[i], d))
			m->cached[i--] = m->cached[--m->n_cached];
}

static void
put_cached_aside(struct manager *m, const struct digest *d)
{
	char name[80], gone[80];

	forget_cached(m, d);
	snprintf(name, sizeof name, "layers/%s.json", digest_text(d).text);
	unlinkat(m->cache, name, 0);
	snprintf(name, sizeof name, "layers/%s", digest_text(d).text);
	snprintf(gone, sizeof gone, "layers/gone.%s", digest_text(d).text);
	put_aside(m->cache, name, m->cache, gone);
}

static void
put_upper_aside(struct manager *m, const struct gone *g)
{
	char name[64], gone[80];

	snprintf(name, sizeof name, "%s/upper.%u", g->session, g->upper);
	snprintf(gone, sizeof gone, "gone.%s.%u", g->session, g->upper);
	put_aside(m->sessions_dir, name, m->scratch, gone);
}

static void
put_session_aside(struct manager *m, const char *id)
{
	char gone[64];

	snprintf(gone, sizeof gone, "gone.%s", id);
	put_aside(m->sessions_dir, id, m->scratch, gone);
}

void
collect_put_aside(struct collect_plan *p)
{
	struct manager *m = p->m;

	for (size_t i = 0; i < p->n_gone; i++) {
		const struct gone *g = &p->gone[i];
		if (g->kind == GONE_CACHE)
			put_cached_aside(m, &g->digest);
		if (g->kind == GONE_UPPER)
			put_upper_aside(m, g);
		if (g->kind != GONE_SESSION)
			continue;
		struct session *s = session_find(m, str_of(g->session));
		if (s)
			session_free(s);
		put_session_aside(m, g->session);
	}
}

static int
put_stray_aside(void *ctx, int dir, const char *name, struct err *err)
{
	struct collect_plan *p = ctx;

	(void)err;
	if (!id_is("s_", str_of(name)) || !collect_plan_is_old(p, made_ns(dir, name)))
		return 0;
	/* Of one whose rows went before a death of this server. Whatever else has no row may hold
	 * files that no archive has: it stays. */
	struct digest id = {{0}};
	memcpy(id.at, name, strlen(name));
	const struct collect_word *ref = collect_plan_find(p, COLLECT_WORD_SESSION, &id);
	if (ref && ref->has_of && !session_find(p->m, str_of(name)))
		put_session_aside(p->m, name);
	return 0;
}

void
collect_stray_sessions(struct collect_plan *p)
{
	struct err err;

	if (each_name(p->m->sessions_dir, put_stray_aside, p, &err) < 0)
		log_err(&err, "gc");
}
