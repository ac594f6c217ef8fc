/* Invariants
 *  1. one layer is open at a time;
 *  2. a file counts as changed when its type, size, time, mode, owner or target differ; a directory
 * when its type, mode or owner do. */
#include "find.h"
#include "path_set.h"

#include <stdlib.h>

enum { NONE = -1 };

struct row { /* what one layer has at one path */
	size_t path, layer;
	enum entry_type type;
	uint32_t mode, uid, gid;
	uint64_t size, link_hash;
	int64_t mtime_ns;
};

struct run {
	const struct layer_options *o;
	struct str pattern;
	bool whole; /* the pattern is for the path */
	const struct find_snapshot *snapshots;
	size_t n_snapshots;
	struct digest *layers; /* owned: distinct, sorted */
	size_t n_layers;
	uint32_t **chains; /* owned: of each snapshot, numbers of layers */
	struct path_set paths, dirs;
	struct row *rows; /* owned; by path, then layer, once sorted */
	size_t n_rows, rows_cap;
	uint8_t *hides; /* owned: bit layer * dirs + dir */
};

static int
no_memory(struct err *err)
{
	return err_set(err, ERR_UNAVAILABLE, "no memory for what was found");
}

static int
add_path(struct path_set *set, struct str path, size_t *out, struct err *err)
{
	if (path_set_add(set, path, out, err) < 0)
		return -1;
	if (set->n <= FIND_PATHS_MAX)
		return 0;
	err_set(err, ERR_USAGE, "more than %d paths fit", FIND_PATHS_MAX);
	return err_hint(err, "give a narrower pattern");
}

/* ---- layers and chains ---- */

static int
by_digest(const void *a, const void *b)
{
	return memcmp(a, b, sizeof(struct digest));
}

static int
number_layers(struct run *r, struct err *err)
{
	size_t all = 0, n = 0;

	for (size_t i = 0; i < r->n_snapshots; i++)
		all += r->snapshots[i].n_layers;
	r->layers = try_new(all + 1, sizeof *r->layers);
	r->chains = try_new(r->n_snapshots + 1, sizeof *r->chains);
	if (!r->layers || !r->chains)
		return no_memory(err);
	for (size_t i = 0; i < r->n_snapshots; i++)
		for (size_t k = 0; k < r->snapshots[i].n_layers; k++)
			r->layers[n++] = r->snapshots[i].layers[k];
	qsort(r->layers, n, sizeof *r->layers, by_digest);
	for (size_t i = 0; i < n; i++)
		if (!r->n_layers || !digest_equal(&r->layers[r->n_layers - 1], &r->layers[i]))
			r->layers[r->n_layers++] = r->layers[i];
	for (size_t i = 0; i < r->n_snapshots; i++) {
		const struct find_snapshot *s = &r->snapshots[i];
		r->chains[i] = try_new(s->n_layers + 1, sizeof **r->chains);
		if (!r->chains[i])
			return no_memory(err);
		for (size_t k = 0; k < s->n_layers; k++) {
			const struct digest *at = bsearch(&s->layers[k], r->layers, r->n_layers,
							  sizeof *r->layers, by_digest);
			r->chains[i][k] = (uint32_t)(at - r->layers);
		}
	}
	return 0;
}

/* ---- what layers have ---- */

static bool
fits(const struct run *r, struct str path)
{
	const char *slash = r->whole || !path.len ? NULL : memrchr(path.at, '/', path.len);
	const struct str name =
	    slash ? (struct str){slash + 1, path.len - (size_t)(slash + 1 - path.at)} : path;

	return path.len && str_glob(r->pattern, name);
}

static int
add_dirs(struct run *r, struct str path, struct err *err)
{
	size_t ignored;

	for (size_t n = 0; n < path.len; n++)
		if ((n == 0 || path.at[n] == '/') &&
		    add_path(&r->dirs, (struct str){path.at, n}, &ignored, err) < 0)
			return -1;
	return 0;
}

static int
take_row(struct run *r, struct view *v, size_t layer, const struct idx_row *row, struct err *err)
{
	const struct view_entry e = {*row, 0};
	struct view_entry file = e;
	size_t path;

	if (r->n_rows == FIND_ROWS_MAX) {
		err_set(err, ERR_USAGE, "more than %d entries of layers fit", FIND_ROWS_MAX);
		return err_hint(err, "give a narrower pattern");
	}
	if (r->n_rows == r->rows_cap) {
		const size_t cap = r->rows_cap ? 2 * r->rows_cap : 256;
		struct row *grown = realloc(r->rows, cap * sizeof *grown);
		if (!grown)
			return no_memory(err);
		r->rows = grown;
		r->rows_cap = cap;
	}
	if (add_path(&r->paths, row->path, &path, err) < 0 || add_dirs(r, row->path, err) < 0 ||
	    view_resolve(v, &e, &file, err) < 0)
		return -1;
	r->rows[r->n_rows++] = (struct row){
	    .path = path,
	    .layer = layer,
	    .type = file.row.type,
	    .mode = file.row.mode,
	    .uid = file.row.uid,
	    .gid = file.row.gid,
	    .size = file.row.size,
	    .link_hash = file.row.type == ENTRY_SYMLINK ? path_set_hash(file.row.link) : 0,
	    .mtime_ns = file.row.mtime_ns,
	};
	return 0;
}

static int
scan_layer(struct run *r, size_t layer, struct err *err)
{
	const struct str all = {NULL, 0};
	struct idx_row row;
	int more;

	auto_of(view) struct view *v = view_new(r->o, &r->layers[layer], 1, err);
	struct idx_rows *rows = v ? view_rows(v, 0, err) : NULL;
	if (!rows)
		return -1;
	auto_of(idx_scan) struct idx_scan *s = idx_scan_new(rows, err);
	if (!s || idx_scan_range(s, all, all, err) < 0)
		return -1;
	while ((more = idx_scan_next(s, &row, err)) > 0)
		if (view_step(v, err) < 0 || (row.type != ENTRY_OPAQUE && fits(r, row.path) &&
					      take_row(r, v, layer, &row, err) < 0))
			return -1;
	return more;
}

static int
ask_layer(struct run *r, size_t layer, struct err *err)
{
	auto_buf key = BUF_MAX(ENTRY_PATH_MAX_BYTES + 2);
	auto_of(view) struct view *v = view_new(r->o, &r->layers[layer], 1, err);

	for (size_t i = 0; v && i < r->dirs.n; i++) {
		const size_t bit = layer * r->dirs.n + i;
		const int got = view_step(v, err) < 0
				    ? -1
				    : view_hides(v, 0, path_set_at(&r->dirs, i), &key, err);
		if (got < 0)
			return -1;
		r->hides[bit / 8] |= (uint8_t)(got << bit % 8);
	}
	return v ? 0 : -1;
}

static int
ask_layers(struct run *r, struct err *err)
{
	size_t bits;

	if (__builtin_mul_overflow(r->n_layers, r->dirs.n, &bits) || bits > (size_t)1 << 30)
		return err_set(err, ERR_USAGE, "%zu directories in %zu layers are too many",
			       r->dirs.n, r->n_layers);
	r->hides = try_new(bits / 8 + 1, 1);
	if (!r->hides)
		return no_memory(err);
	for (size_t i = 0; i < r->n_layers; i++)
		if (ask_layer(r, i, err) < 0)
			return -1;
	return 0;
}

/* ---- one path through the snapshots ---- */

struct track { /* of one path */
	const struct row *rows;
	size_t n;
	size_t *dirs; /* owned: it is in them */
	size_t n_dirs;
	int64_t *at;                 /* owned: of each snapshot, its row's number; NONE */
	bool *held;                  /* owned */
	struct find_change *changes; /* owned */
};

static const struct row *
row_of_layer(const struct track *t, size_t layer)
{
	for (size_t i = 0; i < t->n; i++)
		if (t->rows[i].layer == layer)
			return &t->rows[i];
	return NULL;
}

static bool
is_hidden(const struct run *r, const struct track *t, size_t layer)
{
	for (size_t i = 0; i < t->n_dirs; i++) {
		const size_t bit = layer * r->dirs.n + t->dirs[i];
		if (r->hides[bit / 8] >> bit % 8 & 1)
			return true;
	}
	return false;
}

/* How many layers a snapshot has from its parent: all of the parent's, or none that count. */
static size_t
inherited(const struct run *r, size_t s)
{
	const struct find_snapshot *snapshot = &r->snapshots[s];
	const size_t n = snapshot->parent < s ? r->snapshots[snapshot->parent].n_layers : 0;

	if (n > snapshot->n_layers ||
	    memcmp(r->chains[s], r->chains[snapshot->parent], n * sizeof **r->chains) != 0)
		return 0;
	return n;
}

static int64_t
find_state(const struct run *r, const struct track *t, size_t s)
{
	const size_t from = inherited(r, s);

	for (size_t i = r->snapshots[s].n_layers; i-- > from;) {
		const struct row *row = row_of_layer(t, r->chains[s][i]);
		if (row)
			return row->type == ENTRY_WHITEOUT ? NONE : row - t->rows;
		if (is_hidden(r, t, r->chains[s][i]))
			return NONE;
	}
	return from ? t->at[r->snapshots[s].parent] : NONE;
}

static bool
same(const struct row *a, const struct row *b)
{
	if (a->type != b->type || a->mode != b->mode || a->uid != b->uid || a->gid != b->gid)
		return false;
	return a->type == ENTRY_DIR ||
	       (a->size == b->size && a->mtime_ns == b->mtime_ns && a->link_hash == b->link_hash);
}

static int
tell(const struct run *r, struct track *t, find_fn fn, void *ctx, struct err *err)
{
	const struct str path = path_set_at(&r->paths, t->rows->path);
	size_t n = 0;

	for (size_t s = 0; s < r->n_snapshots; s++) {
		const size_t parent = r->snapshots[s].parent;
		const int64_t now = find_state(r, t, s);
		const int64_t was = parent < s ? t->at[parent] : NONE;
		t->at[s] = now;
		t->held[s] = now != NONE;
		if (now == was ||
		    (now != NONE && was != NONE && same(&t->rows[now], &t->rows[was])))
			continue;
		const struct row *row = &t->rows[now != NONE ? now : was];
		t->changes[n++] = (struct find_change){
		    .snapshot = s,
		    .what = was == NONE   ? FIND_APPEARED
			    : now == NONE ? FIND_VANISHED
					  : FIND_CHANGED,
		    .type = row->type,
		    .size = row->type == ENTRY_FILE ? row->size : 0,
		};
	}
	const struct find_path p = {path, t->changes, n, t->held};
	return n ? fn(ctx, &p, err) : 0;
}

static int
find_dirs(struct run *r, struct track *t, struct err *err)
{
	const struct str path = path_set_at(&r->paths, t->rows->path);

	t->n_dirs = 0;
	for (size_t n = 0; n < path.len; n++)
		if ((n == 0 || path.at[n] == '/') &&
		    add_path(&r->dirs, (struct str){path.at, n}, &t->dirs[t->n_dirs++], err) < 0)
			return -1;
	return 0;
}

static int
by_path(const void *a, const void *b, void *ctx)
{
	const struct path_set *paths = ctx;
	const struct row *x = a, *y = b;

	if (x->path == y->path)
		return x->layer < y->layer ? -1 : x->layer > y->layer;
	const struct str p = path_set_at(paths, x->path), q = path_set_at(paths, y->path);
	const size_t n = p.len < q.len ? p.len : q.len;
	const int o = memcmp(p.at, q.at, n);
	return o ? o : p.len < q.len ? -1 : 1;
}

static int
tell_all(struct run *r, find_fn fn, void *ctx, struct err *err)
{
	size_t deepest = 1;
	int result = 0;

	for (size_t i = 0; i < r->paths.n; i++)
		if (r->paths.rows[i].len + 1 > deepest)
			deepest = r->paths.rows[i].len + 1;
	struct track t = {
	    .dirs = try_new(deepest, sizeof *t.dirs),
	    .at = try_new(r->n_snapshots + 1, sizeof *t.at),
	    .held = try_new(r->n_snapshots + 1, sizeof *t.held),
	    .changes = try_new(r->n_snapshots + 1, sizeof *t.changes),
	};
	if (!t.dirs || !t.at || !t.held || !t.changes)
		result = no_memory(err);
	for (size_t i = 0; result == 0 && i < r->n_rows; i += t.n) {
		t.rows = &r->rows[i];
		for (t.n = 1; i + t.n < r->n_rows && t.rows[t.n].path == t.rows->path;)
			t.n++;
		result = find_dirs(r, &t, err);
		if (result == 0)
			result = tell(r, &t, fn, ctx, err);
	}
	free(t.dirs);
	free(t.at);
	free(t.held);
	free(t.changes);
	return result;
}

static int
run(struct run *r, find_fn fn, void *ctx, struct err *err)
{
	if (number_layers(r, err) < 0)
		return -1;
	for (size_t i = 0; i < r->n_layers; i++)
		if (scan_layer(r, i, err) < 0)
			return -1;
	if (r->n_rows == 0)
		return 0;
	qsort_r(r->rows, r->n_rows, sizeof *r->rows, by_path, &r->paths);
	return ask_layers(r, err) < 0 ? -1 : tell_all(r, fn, ctx, err);
}

int
find_paths(const struct layer_options *o, struct str pattern, const struct find_snapshot *snapshots,
	   size_t n, find_fn fn, void *ctx, struct err *err)
{
	struct run r = {
	    .o = o,
	    .pattern = pattern,
	    .snapshots = snapshots,
	    .n_snapshots = n,
	};

	path_set_init(&r.paths);
	path_set_init(&r.dirs);
	while (r.pattern.len && r.pattern.at[0] == '/') {
		r.pattern.at++;
		r.pattern.len--;
		r.whole = true; /* from the root on */
	}
	r.whole |= r.pattern.len && memchr(r.pattern.at, '/', r.pattern.len);
	const int result = run(&r, fn, ctx, err);
	for (size_t i = 0; r.chains && i < n; i++)
		free(r.chains[i]);
	free(r.chains);
	free(r.layers);
	free(r.rows);
	free(r.hides);
	path_set_done(&r.paths);
	path_set_done(&r.dirs);
	return result;
}
