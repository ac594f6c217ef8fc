/* Candidates are the keys of the layers that are not common to both. At each, both views are asked.
 * Where one of them shows something and the other does not, because of a deletion, an opaque mark
 * or another type, all that is below is compared by walking both; then no key below is a candidate
 * any more. */
#include "diff.h"
#include "content.h"

#include <stdlib.h>

enum { PIECE_BYTES = 64 * 1024, DONE = 1 };

struct run {
	struct view *a, *b; /* lent */
	diff_fn fn;
	void *ctx;
	char *pieces[2];         /* owned */
	struct merge_above done; /* DONE: below it all is said */
};

/* ---- one path ---- */

static int
describe(struct view *v, const struct view_entry *e, struct diff_side *out, struct err *err)
{
	struct view_entry file;

	*out = (struct diff_side){0};
	if (!e)
		return 0;
	const int64_t mtime_ns = e->row.mtime_ns;
	if (view_resolve(v, e, &file, err) < 0)
		return -1;
	*out = (struct diff_side){
	    .there = true,
	    .type = file.row.type,
	    .mode = file.row.mode,
	    .uid = file.row.uid,
	    .gid = file.row.gid,
	    .size = file.row.type == ENTRY_FILE ? file.row.size : 0,
	    .mtime_ns = mtime_ns,
	};
	return 0;
}

static int
say(struct run *r, enum diff_what what, struct str path, const struct diff_side *a,
    const struct diff_side *b, struct err *err)
{
	const struct diff_change c = {what, path, *a, *b};
	return r->fn(r->ctx, &c, err);
}

static int
say_one(struct run *r, bool in_b, struct str path, const struct view_entry *e, struct err *err)
{
	const struct diff_side none = {0};
	struct diff_side side;

	if (describe(in_b ? r->b : r->a, e, &side, err) < 0)
		return -1;
	return in_b ? say(r, DIFF_ADDED, path, &none, &side, err)
		    : say(r, DIFF_DELETED, path, &side, &none, err);
}

/* 1 they differ, 0 not. */
static int
compare_bytes(struct run *r, struct content *a, struct content *b, struct err *err)
{
	struct digest layer_a, layer_b;
	uint64_t at_a, at_b, at = 0;

	if (content_place(a, &layer_a, &at_a) && content_place(b, &layer_b, &at_b) &&
	    at_a == at_b && digest_equal(&layer_a, &layer_b))
		return 0;
	if (content_bytes(a) != content_bytes(b))
		return 1;
	while (at < content_bytes(a)) {
		size_t n, m = 0, k = 0;
		if (content_read(a, at, r->pieces[0], PIECE_BYTES, &n, err) < 0)
			return -1;
		for (; m < n; m += k) {
			if (content_read(b, at + m, r->pieces[1] + m, n - m, &k, err) < 0)
				return -1;
			if (k == 0)
				return 1; /* a live file that became shorter */
		}
		if (n == 0 || memcmp(r->pieces[0], r->pieces[1], n) != 0)
			return 1;
		at += n;
		if (view_step(r->a, err) < 0)
			return -1;
	}
	return 0;
}

static int
compare_files(struct run *r, const struct view_entry *ea, const struct view_entry *eb,
	      struct err *err)
{
	auto_of(content) struct content *a = content_open(r->a, ea, err);
	if (!a)
		return -1;
	auto_of(content) struct content *b = content_open(r->b, eb, err);
	return b ? compare_bytes(r, a, b, err) : -1;
}

/* Of what both name: the links, before anything else is asked that lends them. */
static bool
same_link(struct view *v, const struct view_entry *e, struct buf *out, struct err *err)
{
	struct view_entry file;

	if (view_resolve(v, e, &file, err) < 0)
		return false;
	buf_str(out, file.row.link);
	return !buf_bad(out);
}

static int
compare_links(struct run *r, const struct view_entry *ea, const struct view_entry *eb,
	      struct err *err)
{
	auto_buf a = BUF_MAX(ENTRY_PATH_MAX_BYTES + 1), b = BUF_MAX(ENTRY_PATH_MAX_BYTES + 1);

	if (!same_link(r->a, ea, &a, err) || !same_link(r->b, eb, &b, err))
		return -1;
	return !str_equal(buf_view(&a), buf_view(&b));
}

static bool
same_row(const struct run *r, const struct view_entry *a, const struct view_entry *b)
{
	const struct digest *x = view_digest(r->a, a->layer), *y = view_digest(r->b, b->layer);
	return x && y && digest_equal(x, y);
}

/* An entry that is lent by a find is gone with the next one: *e is asked again where that was. */
static int
find_again(struct view *v, struct str path, struct view_entry *e, struct err *err)
{
	const int got = view_find(v, path, e, err);
	return got == 0 ? err_set(err, ERR_INTERNAL, "an entry of an index vanished") : got;
}

/* Both have it. */
static int
compare_pair(struct run *r, struct str path, struct view_entry ea, struct view_entry eb,
	     struct diff_side *out_a, struct diff_side *out_b, struct err *err)
{
	const bool root = view_layers(r->a) == 0 || view_layers(r->b) == 0;

	if (!root && same_row(r, &ea, &eb) && str_equal(ea.row.path, eb.row.path))
		return describe(r->a, &ea, out_a, err) < 0 || describe(r->b, &eb, out_b, err) < 0
			   ? -1
			   : 0;
	if (describe(r->a, &ea, out_a, err) < 0 || describe(r->b, &eb, out_b, err) < 0)
		return -1;
	if (out_a->type != out_b->type)
		return say(r, DIFF_TYPE, path, out_a, out_b, err);
	int differ = 0;
	if (out_a->type == ENTRY_FILE || out_a->type == ENTRY_SYMLINK) {
		if (find_again(r->a, path, &ea, err) < 0 || find_again(r->b, path, &eb, err) < 0)
			return -1;
		differ = out_a->type == ENTRY_FILE
			     ? out_a->size != out_b->size ? 1 : compare_files(r, &ea, &eb, err)
			     : compare_links(r, &ea, &eb, err);
	}
	if (differ < 0)
		return -1;
	if (differ)
		return say(r, DIFF_CONTENT, path, out_a, out_b, err);
	if ((out_a->mode != out_b->mode && out_a->type != ENTRY_SYMLINK) ||
	    out_a->uid != out_b->uid || out_a->gid != out_b->gid)
		return say(r, DIFF_ATTRIBUTES, path, out_a, out_b, err);
	return 0;
}

/* ---- all that is below ---- */

static int
say_below(struct run *r, bool in_b, struct str dir, struct err *err)
{
	struct view_entry e;
	int more;

	auto_of(view_walk) struct view_walk *w = view_walk_new(in_b ? r->b : r->a, dir, true, err);
	if (!w)
		return -1;
	while ((more = view_walk_next(w, &e, err)) > 0)
		if (say_one(r, in_b, e.row.path, &e, err) < 0)
			return -1;
	return more;
}

static int
order(struct str a, struct str b)
{
	const size_t n = a.len < b.len ? a.len : b.len;
	const int first = n ? memcmp(a.at, b.at, n) : 0;
	return first ? first : a.len < b.len ? -1 : a.len > b.len;
}

static int
compare_below(struct run *r, struct str dir, struct err *err)
{
	struct diff_side a, b;
	struct view_entry ea, eb;

	auto_of(view_walk) struct view_walk *wa = view_walk_new(r->a, dir, true, err);
	if (!wa)
		return -1;
	auto_of(view_walk) struct view_walk *wb = view_walk_new(r->b, dir, true, err);
	if (!wb)
		return -1;
	int more_a = view_walk_next(wa, &ea, err);
	int more_b = more_a < 0 ? -1 : view_walk_next(wb, &eb, err);
	while (more_a >= 0 && more_b >= 0 && (more_a || more_b)) {
		const int o = !more_a ? 1 : !more_b ? -1 : order(ea.row.path, eb.row.path);
		const int said = o < 0   ? say_one(r, false, ea.row.path, &ea, err)
				 : o > 0 ? say_one(r, true, eb.row.path, &eb, err)
					 : compare_pair(r, ea.row.path, ea, eb, &a, &b, err);
		if (said < 0)
			return -1;
		if (o <= 0)
			more_a = view_walk_next(wa, &ea, err);
		if (o >= 0 && more_a >= 0)
			more_b = view_walk_next(wb, &eb, err);
	}
	return more_a < 0 || more_b < 0 ? -1 : 0;
}

/* ---- candidates ---- */

static int
mark_done(struct run *r, struct str path, struct err *err)
{
	return merge_above_put(&r->done, path, DONE, err);
}

/* Whether a row of the group hides what is below its path. */
static bool
hides(const struct merge_group *g)
{
	for (size_t i = 0; i < g->n; i++)
		if (g->items[i].row.type != ENTRY_DIR)
			return true;
	return false;
}

static int
judge(struct run *r, const struct merge_group *g, struct err *err)
{
	const struct str path = g->path;
	struct view_entry ea, eb;
	struct diff_side a = {0}, b = {0};

	const int in_a = view_find(r->a, path, &ea, err);
	const int in_b = in_a < 0 ? -1 : view_find(r->b, path, &eb, err);
	if (in_a < 0 || in_b < 0)
		return -1;
	const bool dir_a = in_a && ea.row.type == ENTRY_DIR,
		   dir_b = in_b && eb.row.type == ENTRY_DIR;
	if (dir_a && dir_b && hides(g)) {
		if (!g->opaque && compare_pair(r, path, ea, eb, &a, &b, err) < 0)
			return -1;
		return compare_below(r, path, err) < 0 ? -1 : mark_done(r, path, err);
	}
	if (g->opaque)
		return 0; /* its directory's own row has told of it */
	int said = 0;
	if (in_a && in_b)
		said = compare_pair(r, path, ea, eb, &a, &b, err);
	else if (in_a || in_b)
		said = say_one(r, in_b, path, in_b ? &eb : &ea, err);
	if (said < 0 || dir_a == dir_b)
		return said;
	return say_below(r, dir_b, path, err) < 0 ? -1 : mark_done(r, path, err);
}

static size_t
common_layers(const struct view *a, const struct view *b)
{
	size_t n = 0;

	while (n < view_layers(a) && n < view_layers(b) && view_digest(a, n) && view_digest(b, n) &&
	       digest_equal(view_digest(a, n), view_digest(b, n)))
		n++;
	return n;
}

static int
add_layers(struct merge *m, struct view *v, size_t from, size_t number, struct err *err)
{
	for (size_t i = from; i < view_layers(v); i++) {
		struct idx_rows *rows = view_rows(v, i, err);
		if (!rows || merge_add(m, rows, number + i, err) < 0)
			return -1;
	}
	return 0;
}

/* Whether the root of one of these layers is opaque, which no capture makes: 1, 0, -1. */
static int
opaque_root(struct view *v, size_t from, struct err *err)
{
	for (size_t i = from; i < view_layers(v); i++) {
		struct idx_row row;
		struct idx_rows *rows = view_rows(v, i, err);
		const int got = rows ? idx_rows_find(rows, STR_LIT("/"), &row, err) : -1;
		if (got != 0)
			return got;
	}
	return 0;
}

static int
run(struct run *r, struct err *err)
{
	const size_t from = common_layers(r->a, r->b);
	struct view_entry ea, eb;
	struct diff_side a, b;
	struct merge_group g;
	size_t done;
	int more;

	if (view_find(r->a, STR_LIT(""), &ea, err) < 0 ||
	    view_find(r->b, STR_LIT(""), &eb, err) < 0 ||
	    compare_pair(r, STR_LIT(""), ea, eb, &a, &b, err) < 0)
		return -1;
	const int all_a = opaque_root(r->a, from, err);
	const int all_b = all_a < 0 ? -1 : opaque_root(r->b, from, err);
	if (all_a < 0 || all_b < 0)
		return -1;
	if (all_a || all_b)
		return compare_below(r, STR_LIT(""), err);
	auto_of(merge) struct merge *m = merge_new(STR_LIT(""), false, err);
	if (!m || add_layers(m, r->a, from, 0, err) < 0 ||
	    add_layers(m, r->b, from, view_layers(r->a), err) < 0)
		return -1;
	while ((more = merge_next(m, &g, err)) > 0) {
		if (merge_above_move(&r->done, g.key, 0, &done, err) < 0)
			return -1;
		if (done != DONE && judge(r, &g, err) < 0)
			return -1;
	}
	return more;
}

int
diff_views(struct view *a, struct view *b, diff_fn fn, void *ctx, struct err *err)
{
	struct run r = {.a = a, .b = b, .fn = fn, .ctx = ctx};

	merge_above_init(&r.done);
	r.pieces[0] = xnew(1, PIECE_BYTES);
	r.pieces[1] = xnew(1, PIECE_BYTES);
	const int result = run(&r, err);
	free(r.pieces[0]);
	free(r.pieces[1]);
	merge_above_done(&r.done);
	return result;
}
