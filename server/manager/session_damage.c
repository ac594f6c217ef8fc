/* A start that fails of a damaged layer: which snapshots of the session do without it. */
#include "manager/session.h"

#include <stdio.h>

enum { TOLD_MAX = 4 };

struct search {
	struct index *ix; /* lent */
	const struct digest *bad;
	struct digest good[TOLD_MAX]; /* the newest, in order of age */
	unsigned n;
	bool has_bad;
};

static int
look_for_bad(void *ctx, const struct layer_row *row, struct err *err)
{
	struct search *q = ctx;

	(void)err;
	q->has_bad |= digest_equal(&row->digest, q->bad);
	return 0;
}

static int
take_good(void *ctx, const struct snapshot_row *row, struct err *err)
{
	struct search *q = ctx;

	q->has_bad = false;
	if (index_list_layers(q->ix, &row->digest, look_for_bad, q, err) < 0)
		return -1;
	if (q->has_bad)
		return 0;
	if (q->n == TOLD_MAX) {
		memmove(q->good, q->good + 1, sizeof q->good - sizeof *q->good);
		q->n--;
	}
	q->good[q->n++] = row->digest;
	return 0;
}

/* The layer that the worker names; NULL: none. */
static const struct digest *
find_bad(const struct session *s, const struct err *failure)
{
	for (size_t i = 0; i < s->n_layers; i++) {
		char name[16];
		snprintf(name, sizeof name, "%.12s", digest_text(&s->layers[i].digest).text);
		if (strstr(failure->why, name))
			return &s->layers[i].digest;
	}
	return NULL;
}

void
session_say_good(struct session *s, struct err *failure)
{
	struct search q = {.ix = &s->m->index, .bad = find_bad(s, failure)};
	auto_buf names = BUF_MAX(160);
	struct err err;

	if (!q.bad || index_list_snapshots(&s->m->index, s->row.id, take_good, &q, &err) < 0)
		return;
	for (unsigned i = q.n; i-- > 0;)
		buf_fmt(&names, "%s%.12s", names.len ? ", " : "", digest_text(&q.good[i]).text);
	if (q.n)
		err_hint(failure, "still good: %s; restore %s to one, or verify --repair",
			 buf_cstr(&names), s->row.name);
	else
		err_hint(failure, "no snapshot of it does without that; try: verify --repair %s",
			 s->row.name);
}
