/* Invariants
 *  1. what a view shows is what overlayfs shows of the same layers: of the rows of one path the
 *     uppermost counts, and nothing below a deletion, an opaque mark or what is no directory;
 *  2. nothing is written: the store may be read only. */
#include "view.h"
#include "base/fd.h"
#include "base/path.h"
#include "blob.h"
#include "frames_at.h"
#include "rebuild.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

enum { STEP_CALLS = 4096 };

struct layer {
	struct digest digest;
	bool live;
	int idx, blob;            /* owned; -1 */
	struct idx_rows *rows;    /* owned; NULL: not needed yet */
	struct frames_at *frames; /* owned; the same */
};

struct view {
	struct layer_options o;
	struct layer *layers; /* owned */
	size_t n;
	int upper; /* lent; -1: not live */
	struct frames_room room;
	unsigned calls;
};

struct view *
view_new(const struct layer_options *o, const struct digest *layers, size_t n, struct err *err)
{
	struct view *v = xnew(1, sizeof *v);

	*v = (struct view){.o = *o, .upper = -1, .n = n};
	v->layers = try_new(n + 1, sizeof *v->layers); /* one more: a live one */
	if (!v->layers) {
		v->n = 0;
		view_free(v);
		err_set(err, ERR_UNAVAILABLE, "no memory for %zu layers", n);
		return NULL;
	}
	for (size_t i = 0; i < n; i++)
		v->layers[i] = (struct layer){.digest = layers[i], .idx = -1, .blob = -1};
	return v;
}

void
view_free(struct view *v)
{
	if (!v)
		return;
	for (size_t i = 0; i < v->n; i++) {
		struct layer *l = &v->layers[i];
		idx_rows_free(l->rows);
		frames_at_free(l->frames);
		fd_close(&l->idx);
		fd_close(&l->blob);
	}
	free(v->layers);
	frames_room_done(&v->room);
	free(v);
}

int
view_step(struct view *v, struct err *err)
{
	if (++v->calls % STEP_CALLS || !v->o.watch.step)
		return 0;
	return v->o.watch.step(v->o.watch.ctx, v->room.read_bytes, v->calls, err);
}

size_t
view_layers(const struct view *v)
{
	return v->n;
}

const struct digest *
view_digest(const struct view *v, size_t layer)
{
	return v->layers[layer].live ? NULL : &v->layers[layer].digest;
}

int
view_upper(const struct view *v)
{
	return v->upper;
}

uint64_t
view_read_bytes(const struct view *v)
{
	return v->room.read_bytes;
}

/* ---- layers ---- */

int
view_add_live(struct view *v, int upper, struct err *err)
{
	struct layer *l = &v->layers[v->n];

	*l = (struct layer){.live = true, .idx = -1, .blob = -1};
	l->idx = rebuild_upper(&v->o, upper, err);
	if (l->idx < 0)
		return err_add(err, "look through the workspace");
	l->rows = idx_rows_open(l->idx, NULL, err);
	if (!l->rows) {
		fd_close(&l->idx);
		return -1;
	}
	v->upper = upper;
	v->n++;
	return 0;
}

static int
open_blob(struct view *v, struct layer *l, struct err *err)
{
	uint64_t bytes;

	if (l->blob < 0)
		l->blob = blob_open(v->o.store, &l->digest, &bytes, err);
	return l->blob < 0 ? -1 : 0;
}

struct idx_rows *
view_rows(struct view *v, size_t layer, struct err *err)
{
	struct layer *l = &v->layers[layer];
	char name[96];

	if (l->rows)
		return l->rows;
	snprintf(name, sizeof name, "idx/%s.idx", digest_text(&l->digest).text);
	l->idx = path_open(v->o.store, name, O_RDONLY | O_NONBLOCK, err);
	if (l->idx < 0 && errno == ENOENT && open_blob(v, l, err) == 0)
		l->idx = rebuild_archive(&v->o, l->blob, &l->digest, err);
	l->rows = l->idx < 0 ? NULL : idx_rows_open(l->idx, &l->digest, err);
	if (!l->rows) {
		fd_close(&l->idx);
		err_add(err, "layer %.12s", digest_text(&l->digest).text);
	}
	return l->rows;
}

struct frames_at *
view_frames(struct view *v, size_t layer, struct err *err)
{
	struct layer *l = &v->layers[layer];

	if (!l->frames && open_blob(v, l, err) == 0)
		l->frames = frames_at_new(l->blob, &v->room, LAYER_RAW_MAX_BYTES, err);
	if (!l->frames)
		err_add(err, "layer %.12s", digest_text(&l->digest).text);
	return l->frames;
}

/* ---- one path ---- */

static int
find_row(struct view *v, size_t layer, struct str key, struct idx_row *out, struct err *err)
{
	struct idx_rows *rows = view_rows(v, layer, err);
	return rows ? idx_rows_find(rows, key, out, err) : -1;
}

int
view_hides(struct view *v, size_t layer, struct str dir, struct buf *key, struct err *err)
{
	struct idx_row row;
	int got = find_row(v, layer, dir, &row, err);

	if (got < 0 || (got && row.type != ENTRY_DIR))
		return got;
	buf_clear(key);
	buf_str(key, dir);
	buf_char(key, '/');
	if (buf_bad(key))
		return err_set(err, ERR_USAGE, "a path is too long");
	got = find_row(v, layer, buf_view(key), &row, err);
	return got > 0 ? row.type == ENTRY_OPAQUE : got;
}

/* The same of any directory on the way to `path`, and (itself) of that too. */
static int
hides_way(struct view *v, size_t layer, struct str path, bool itself, struct buf *key,
	  struct err *err)
{
	for (size_t n = 0; n <= path.len; n++) {
		if (n && n < path.len && path.at[n] != '/')
			continue;
		if (n == path.len && !itself)
			break;
		const int got = view_hides(v, layer, (struct str){path.at, n}, key, err);
		if (got != 0)
			return got;
	}
	return 0;
}

static int
say_root(struct view_entry *out)
{
	*out = (struct view_entry){.row = {.type = ENTRY_DIR,
					   .key = STR_LIT(""),
					   .path = STR_LIT(""),
					   .link = STR_LIT(""),
					   .mode = 0755}};
	return 1;
}

int
view_find(struct view *v, struct str path, struct view_entry *out, struct err *err)
{
	auto_buf key = BUF_MAX(ENTRY_PATH_MAX_BYTES + 2);

	if (view_step(v, err) < 0)
		return -1;
	for (size_t i = v->n; i-- > 0;) {
		struct idx_row row;
		int got = find_row(v, i, path, &row, err);
		if (got < 0)
			return -1;
		if (got) {
			*out = (struct view_entry){row, i};
			return row.type != ENTRY_WHITEOUT && row.type != ENTRY_OPAQUE;
		}
		got = path.len ? hides_way(v, i, path, false, &key, err) : 0;
		if (got != 0)
			return got < 0 ? -1 : 0;
	}
	return path.len ? 0 : say_root(out);
}

int
view_resolve(struct view *v, const struct view_entry *e, struct view_entry *out, struct err *err)
{
	auto_buf link = BUF_MAX(ENTRY_PATH_MAX_BYTES + 1);
	struct idx_row row;

	*out = *e;
	if (e->row.type != ENTRY_LINK)
		return 0;
	buf_str(&link, e->row.link); /* lent, maybe, by the statement that is asked next */
	const int got = find_row(v, e->layer, buf_view(&link), &row, err);
	if (got < 0)
		return -1;
	if (!got || (row.type != ENTRY_FILE && row.type != ENTRY_SYMLINK && row.type != ENTRY_FIFO))
		return err_set(err, ERR_CORRUPT, "a hard link leads to no file of its layer");
	*out = (struct view_entry){row, e->layer};
	return 0;
}

/* ---- all of them ---- */

struct view_walk {
	struct view *v;      /* lent */
	struct merge *merge; /* owned */
	size_t least;        /* below this layer nothing in the directory shows */
	struct merge_above above;
};

struct view_walk *
view_walk_new(struct view *v, struct str dir, bool deep, struct err *err)
{
	auto_of(view_walk) struct view_walk *w = xnew(1, sizeof *w);
	auto_buf key = BUF_MAX(ENTRY_PATH_MAX_BYTES + 2);

	*w = (struct view_walk){.v = v};
	merge_above_init(&w->above);
	w->merge = merge_new(dir, !deep, err);
	if (!w->merge)
		return NULL;
	for (size_t i = v->n; i-- > 0;) {
		struct idx_rows *rows = view_rows(v, i, err);
		if (!rows || merge_add(w->merge, rows, i, err) < 0)
			return NULL;
		const int got = hides_way(v, i, dir, true, &key, err);
		if (got < 0)
			return NULL;
		if (got) {
			w->least = i;
			break;
		}
	}
	return steal(&w);
}

void
view_walk_free(struct view_walk *w)
{
	if (!w)
		return;
	merge_free(w->merge);
	merge_above_done(&w->above);
	free(w);
}

int
view_walk_next(struct view_walk *w, struct view_entry *out, struct err *err)
{
	struct merge_group g;
	int got;

	while ((got = merge_next(w->merge, &g, err)) > 0) {
		size_t least;
		if (view_step(w->v, err) < 0 ||
		    merge_above_move(&w->above, g.key, w->least, &least, err) < 0)
			return -1;
		/* the uppermost that hides what lower ones have below this path */
		for (size_t i = 0; i < g.n; i++)
			if (g.items[i].row.type != ENTRY_DIR) {
				if (g.items[i].source > least &&
				    merge_above_put(&w->above, g.path, g.items[i].source, err) < 0)
					return -1;
				break;
			}
		if (g.opaque || g.items[0].source < least || g.items[0].row.type == ENTRY_WHITEOUT)
			continue;
		*out = (struct view_entry){g.items[0].row, g.items[0].source};
		return 1;
	}
	return got;
}
