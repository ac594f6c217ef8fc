/* Invariants
 *  1. the heap holds the sources that have a row, the least key at its top, of equal keys the
 *     uppermost source;
 *  2. the rows of the group that was handed out are those their scans are at: none of them moves
 * before the next merge_next. */
#include "merge.h"

#include <stdlib.h>

struct source {
	struct idx_scan *scan; /* owned */
	struct merge_item item;
};

struct merge {
	struct buf dir;   /* with its slash; empty: all */
	struct buf below; /* the first key that is not below dir */
	bool shallow;
	struct source *sources; /* owned */
	size_t n_sources, cap;
	struct source **heap; /* owned */
	size_t n;
	struct merge_item *group; /* owned */
	struct source **moved;    /* owned: whose rows the group has */
	size_t n_group;
	struct buf skip;
	bool begun;
};

/* ---- order ---- */

static int
order(struct str a, struct str b)
{
	const size_t n = a.len < b.len ? a.len : b.len;
	const int first = n ? memcmp(a.at, b.at, n) : 0;

	return first ? first : a.len < b.len ? -1 : a.len > b.len;
}

static bool
stands_before(const struct source *a, const struct source *b)
{
	const int o = order(a->item.row.key, b->item.row.key);
	return o < 0 || (o == 0 && a->item.source > b->item.source);
}

static void
push(struct merge *m, struct source *s)
{
	size_t i = m->n++;

	for (; i && stands_before(s, m->heap[(i - 1) / 2]); i = (i - 1) / 2)
		m->heap[i] = m->heap[(i - 1) / 2];
	m->heap[i] = s;
}

static struct source *
pop(struct merge *m)
{
	struct source *top = m->heap[0], *last = m->heap[--m->n];
	size_t i = 0;

	for (size_t next = 1; next < m->n; i = next, next = 2 * i + 1) {
		if (next + 1 < m->n && stands_before(m->heap[next + 1], m->heap[next]))
			next++;
		if (!stands_before(m->heap[next], last))
			break;
		m->heap[i] = m->heap[next];
	}
	m->heap[i] = last;
	return top;
}

/* ---- sources ---- */

/* The next row of a source joins the heap; of a shallow merge, one that is in the directory itself.
 */
static int
advance(struct merge *m, struct source *s, struct err *err)
{
	int got;

	while ((got = idx_scan_next(s->scan, &s->item.row, err)) > 0) {
		const struct str key = s->item.row.key;
		const char *slash =
		    m->shallow ? memchr(key.at + m->dir.len, '/', key.len - m->dir.len) : NULL;
		if (!slash) {
			push(m, s);
			return 0;
		}
		buf_clear(&m->skip);
		buf_add(&m->skip, key.at, (size_t)(slash - key.at));
		buf_char(&m->skip, '/' + 1);
		if (buf_bad(&m->skip))
			return err_set(err, ERR_UNAVAILABLE, "no memory for a path");
		if (idx_scan_skip(s->scan, buf_view(&m->skip), err) < 0)
			return -1;
	}
	return got;
}

struct merge *
merge_new(struct str dir, bool shallow, struct err *err)
{
	auto_of(merge) struct merge *m = xnew(1, sizeof *m);

	*m = (struct merge){.dir = BUF_MAX(ENTRY_PATH_MAX_BYTES + 2),
			    .below = BUF_MAX(ENTRY_PATH_MAX_BYTES + 2),
			    .skip = BUF_MAX(ENTRY_PATH_MAX_BYTES + 2),
			    .shallow = shallow};
	if (dir.len) {
		buf_str(&m->dir, dir);
		buf_char(&m->dir, '/');
		buf_str(&m->below, dir);
		buf_char(&m->below, '/' + 1);
	}
	if (buf_bad(&m->dir) || buf_bad(&m->below)) {
		err_set(err, ERR_USAGE, "a path is longer than %d bytes", ENTRY_PATH_MAX_BYTES);
		return NULL;
	}
	return steal(&m);
}

void
merge_free(struct merge *m)
{
	if (!m)
		return;
	for (size_t i = 0; i < m->n_sources; i++)
		idx_scan_free(m->sources[i].scan);
	free(m->sources);
	free(m->heap);
	free(m->group);
	free(m->moved);
	buf_free(&m->dir);
	buf_free(&m->below);
	buf_free(&m->skip);
	free(m);
}

int
merge_add(struct merge *m, struct idx_rows *rows, size_t source, struct err *err)
{
	if (m->n_sources == m->cap) {
		const size_t cap = m->cap ? 2 * m->cap : 8;
		struct source *grown = realloc(m->sources, cap * sizeof *grown);
		if (!grown)
			return err_set(err, ERR_UNAVAILABLE, "no memory for a layer");
		m->sources = grown;
		m->cap = cap;
	}
	struct source *s = &m->sources[m->n_sources];
	*s = (struct source){.scan = idx_scan_new(rows, err), .item.source = source};
	if (!s->scan)
		return -1;
	m->n_sources++;
	/* above "" is all but the root's own row */
	const struct str after = {m->dir.len ? m->dir.at : "", m->dir.len};
	const struct str below = {m->dir.len ? m->below.at : NULL, m->below.len};
	return idx_scan_range(s->scan, after, below, err);
}

static int
begin(struct merge *m, struct err *err)
{
	m->begun = true;
	m->heap = xnew(m->n_sources + 1, sizeof *m->heap);
	m->group = xnew(m->n_sources + 1, sizeof *m->group);
	m->moved = xnew(m->n_sources + 1, sizeof *m->moved);
	for (size_t i = 0; i < m->n_sources; i++)
		if (advance(m, &m->sources[i], err) < 0)
			return -1;
	return 0;
}

int
merge_next(struct merge *m, struct merge_group *out, struct err *err)
{
	if (!m->begun && begin(m, err) < 0)
		return -1;
	for (size_t i = 0; i < m->n_group; i++)
		if (advance(m, m->moved[i], err) < 0)
			return -1;
	m->n_group = 0;
	if (m->n == 0)
		return 0;
	do {
		struct source *s = pop(m);
		m->moved[m->n_group] = s;
		m->group[m->n_group++] = s->item;
	} while (m->n && order(m->heap[0]->item.row.key, m->group[0].row.key) == 0);
	*out = (struct merge_group){
	    .key = m->group[0].row.key,
	    .path = m->group[0].row.path,
	    .opaque = m->group[0].row.type == ENTRY_OPAQUE,
	    .items = m->group,
	    .n = m->n_group,
	};
	return 1;
}

/* ---- what lies above ---- */

void
merge_above_init(struct merge_above *a)
{
	*a = (struct merge_above){.key = BUF_MAX(ENTRY_PATH_MAX_BYTES + 2)};
}

void
merge_above_done(struct merge_above *a)
{
	free(a->at);
	buf_free(&a->key);
	*a = (struct merge_above){0};
}

static size_t
common(struct str a, struct str b)
{
	size_t n = 0;

	while (n < a.len && n < b.len && a.at[n] == b.at[n])
		n++;
	return n;
}

int
merge_above_move(struct merge_above *a, struct str key, size_t otherwise, size_t *out,
		 struct err *err)
{
	const size_t same = common(buf_view(&a->key), key);

	/* What is below D begins with D and a slash; keys that go on with less come before those.
	 */
	while (a->n && (a->at[a->n - 1].len > same ||
			(key.len > a->at[a->n - 1].len && key.at[a->at[a->n - 1].len] > '/')))
		a->n--;
	*out = otherwise;
	for (size_t i = a->n; i-- > 0;)
		if (key.len > a->at[i].len && key.at[a->at[i].len] == '/') {
			*out = a->at[i].level;
			break;
		}
	buf_clear(&a->key);
	buf_str(&a->key, key);
	return buf_bad(&a->key) ? err_set(err, ERR_UNAVAILABLE, "no memory for a path") : 0;
}

int
merge_above_put(struct merge_above *a, struct str path, size_t level, struct err *err)
{
	if (a->n && a->at[a->n - 1].len == path.len) {
		if (a->at[a->n - 1].level < level)
			a->at[a->n - 1].level = level;
		return 0;
	}
	if (a->n == a->cap) {
		const size_t cap = a->cap ? 2 * a->cap : 16;
		struct merge_mark *grown = realloc(a->at, cap * sizeof *grown);
		if (!grown)
			return err_set(err, ERR_UNAVAILABLE, "no memory for a directory");
		a->at = grown;
		a->cap = cap;
	}
	a->at[a->n++] = (struct merge_mark){path.len, level};
	return 0;
}
