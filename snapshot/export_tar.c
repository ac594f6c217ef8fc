/* The uppermost layer first: what it has, or hides, is not taken from lower ones. Since a layer has
 * an entry's directories before the entry (capture.c, invariant 2), so has the merged tar.
 *
 * Invariants
 *  1. each path comes once (but for 3), as its uppermost layer has it, or not at all where that
 * deleted it;
 *  2. a file with several names comes with its data once a layer: under its first name, or, where
 * an upper layer has that, under the first of the others that is left;
 *  3. a directory into which something came from a lower layer than its own comes once more, at the
 * end: stock tar has set its time by then. Memory grows with the paths of all layers but the
 * lowest. */
#include "export.h"
#include "base/fd.h"
#include "blob.h"
#include "path_set.h"
#include "unpack.h"
#include "view.h"

#include <stdlib.h>

struct run {
	const struct layer_options *o;
	struct tar_writer tar;
	size_t layer; /* at work */
	struct path_set paths;
	struct mark { /* of each path */
		uint32_t seen,
		    hides; /* the uppermost layer that has it, that hides what is below; + 1 */
		bool late; /* it must come again */
		size_t again_at, again_n; /* of a directory: its entry, in `again` */
	} * marks;                        /* owned */
	size_t cap;
	struct tar_writer again_tar;
	struct buf again;
	/* of the layer at work */
	struct digest digest;
	bool links_loaded;
	struct path_set firsts; /* first names that are not left */
	size_t *others; /* owned: of each, the number in `paths` of the name that stands for it */
	size_t others_cap;
	uint64_t bytes, entries;
};

static int
no_memory(struct err *err)
{
	return err_set(err, ERR_UNAVAILABLE, "no memory to merge layers");
}

/* ---- what upper layers have ---- */

static int
number_of(struct run *r, struct str path, size_t *out, struct err *err)
{
	if (path_set_add(&r->paths, path, out, err) < 0)
		return -1;
	if (*out < r->cap)
		return 0;
	const size_t cap = r->cap ? 2 * r->cap : 1024;
	struct mark *grown = realloc(r->marks, cap * sizeof *grown);
	if (!grown)
		return no_memory(err);
	r->marks = grown;
	memset(grown + r->cap, 0, (cap - r->cap) * sizeof *grown);
	r->cap = cap;
	return 0;
}

static int
note(struct run *r, const struct entry *e, struct err *err)
{
	size_t i;

	if (r->layer == 0)
		return 0; /* nothing is below it */
	if (number_of(r, e->path, &i, err) < 0)
		return -1;
	const uint32_t level = (uint32_t)r->layer + 1;
	if (e->type != ENTRY_OPAQUE && !r->marks[i].seen)
		r->marks[i].seen = level;
	if (e->type != ENTRY_DIR && !r->marks[i].hides)
		r->marks[i].hides = level;
	return 0;
}

/* Whether an upper layer has this path, or hides it. */
static bool
is_covered(const struct run *r, struct str path)
{
	const uint32_t mine = (uint32_t)r->layer + 1;
	size_t i;

	if (path_set_find(&r->paths, path, &i) && r->marks[i].seen > mine)
		return true;
	for (size_t n = 0; n < path.len; n++)
		if ((n == 0 || path.at[n] == '/') &&
		    path_set_find(&r->paths, (struct str){path.at, n}, &i) &&
		    r->marks[i].hides > mine)
			return true;
	return false;
}

/* ---- files with several names ---- */

static int
add_other(struct run *r, struct str first, struct str other, struct err *err)
{
	size_t i;
	const size_t before = r->firsts.n;

	if (path_set_add(&r->firsts, first, &i, err) < 0)
		return -1;
	if (r->firsts.n == before)
		return 0; /* it has one */
	if (i >= r->others_cap) {
		const size_t cap = r->others_cap ? 2 * r->others_cap : 64;
		size_t *grown = realloc(r->others, cap * sizeof *grown);
		if (!grown)
			return no_memory(err);
		r->others = grown;
		r->others_cap = cap;
	}
	return number_of(r, other, &r->others[i], err);
}

/* Of first names that are covered, which of the others stands for them. */
static int
load_links(struct run *r, struct err *err)
{
	const struct str all = {NULL, 0};
	struct idx_row row;
	int more;

	r->links_loaded = true;
	auto_of(view) struct view *v = view_new(r->o, &r->digest, 1, err);
	struct idx_rows *rows = v ? view_rows(v, 0, err) : NULL;
	if (!rows)
		return -1;
	auto_of(idx_scan) struct idx_scan *s = idx_scan_new(rows, err);
	if (!s || idx_scan_range(s, all, all, err) < 0)
		return -1;
	while ((more = idx_scan_next(s, &row, err)) > 0)
		if (row.type == ENTRY_LINK && is_covered(r, row.link) && !is_covered(r, row.path) &&
		    add_other(r, row.link, row.path, err) < 0)
			return -1;
	return more;
}

/* The name under which this first name's data comes; false: its own. */
static bool
find_other(const struct run *r, struct str first, struct str *out)
{
	size_t i;

	if (!path_set_find(&r->firsts, first, &i))
		return false;
	*out = path_set_at(&r->paths, r->others[i]);
	return true;
}

/* ---- entries ---- */

static int
put_with_data(struct run *r, struct tar_reader *in, struct entry *e, struct err *err)
{
	struct str piece = {NULL, 0};
	uint64_t at;

	int more = tar_read(in, &piece, &at, err);
	if (more < 0)
		return -1;
	if (more == 0 && e->size && !e->sparse) { /* one hole */
		e->sparse = true;
		e->n_extents = 0;
	}
	if (tar_put(&r->tar, e, &at, err) < 0)
		return -1;
	for (; more > 0; more = tar_read(in, &piece, &at, err)) {
		r->bytes += piece.len;
		if (tar_put_data(&r->tar, piece.at, piece.len, err) < 0 ||
		    (r->o->watch.step &&
		     r->o->watch.step(r->o->watch.ctx, r->bytes, r->entries, err) < 0))
			return -1;
	}
	if (more == 0 && r->tar.left)
		return err_set(err, ERR_CORRUPT, "a file of the archive is shorter than it says");
	return more;
}

/* A directory of an upper layer, should lower ones have something for it. */
static int
keep_dir(struct run *r, const struct entry *e, struct err *err)
{
	const size_t at = r->again.len;
	uint64_t ignored;
	size_t i;

	if (number_of(r, e->path, &i, err) < 0 || tar_put(&r->again_tar, e, &ignored, err) < 0)
		return -1;
	r->marks[i].again_at = at;
	r->marks[i].again_n = r->again.len - at;
	return 0;
}

static void
note_parent(struct run *r, struct str path)
{
	const char *slash = path.len ? memrchr(path.at, '/', path.len) : NULL;
	const struct str dir = {path.at, slash ? (size_t)(slash - path.at) : 0};
	size_t i;

	if (path.len && path_set_find(&r->paths, dir, &i) &&
	    r->marks[i].seen > (uint32_t)r->layer + 1)
		r->marks[i].late = true;
}

static int
put_again(struct run *r, struct err *err)
{
	for (size_t i = 0; i < r->paths.n; i++)
		if (r->marks[i].late && r->marks[i].again_n &&
		    r->tar.sink.put(r->tar.sink.ctx, r->again.at + r->marks[i].again_at,
				    r->marks[i].again_n, err) < 0)
			return -1;
	return 0;
}

static int
put_in_memory(void *ctx, const void *bytes, size_t n, struct err *err)
{
	struct run *r = ctx;

	buf_add(&r->again, bytes, n);
	return buf_bad(&r->again) ? no_memory(err) : 0;
}

static int
put(struct run *r, struct tar_reader *in, struct entry *e, struct err *err)
{
	uint64_t ignored;

	r->entries++;
	note_parent(r, e->path);
	if (r->layer && e->type == ENTRY_DIR && keep_dir(r, e, err) < 0)
		return -1;
	return e->type == ENTRY_FILE ? put_with_data(r, in, e, err)
				     : tar_put(&r->tar, e, &ignored, err);
}

static int
take(struct run *r, struct tar_reader *in, struct entry *e, struct err *err)
{
	struct str other;

	if (e->type == ENTRY_WHITEOUT || e->type == ENTRY_OPAQUE)
		return 0;
	if (is_covered(r, e->path)) {
		if (e->type == ENTRY_DIR || e->type == ENTRY_LINK)
			return 0;
		if (!r->links_loaded && load_links(r, err) < 0)
			return -1;
		if (!find_other(r, e->path, &e->path))
			return 0;
	} else if (e->type == ENTRY_LINK && find_other(r, e->link, &other)) {
		if (str_equal(other, e->path))
			return 0; /* it came with the data */
		e->link = other;
	}
	return put(r, in, e, err);
}

static int
merge_layer(struct run *r, struct err *err)
{
	struct frames_sum sum;
	struct entry e;
	uint64_t bytes;
	int more;

	auto_close int fd = blob_open(r->o->store, &r->digest, &bytes, err);
	if (fd < 0)
		return -1;
	auto_of(frames_reader) struct frames_reader *frames =
	    frames_reader_new(fd, unpack_threads(r->o), LAYER_RAW_MAX_BYTES, err);
	if (!frames)
		return -1;
	auto_of(tar_reader) struct tar_reader *in = tar_reader_new(frames, err);
	if (!in)
		return -1;
	while ((more = tar_next(in, &e, err)) > 0)
		if (note(r, &e, err) < 0 || take(r, in, &e, err) < 0)
			return -1;
	if (more < 0 || frames_reader_sum(frames, &sum, err) < 0)
		return -1;
	return unpack_judge(&sum, &r->digest, NULL, err);
}

static int
run(struct run *r, const struct digest *layers, size_t n, struct err *err)
{
	for (size_t i = n; i-- > 0;) {
		r->layer = i;
		r->digest = layers[i];
		r->links_loaded = false;
		path_set_done(&r->firsts);
		path_set_init(&r->firsts);
		if (merge_layer(r, err) < 0)
			return err_add(err, "layer %.12s", digest_text(&layers[i]).text);
	}
	return put_again(r, err) < 0 ? -1 : tar_end(&r->tar, err);
}

int
export_tar(const struct layer_options *o, const struct digest *layers, size_t n,
	   struct tar_sink sink, struct err *err)
{
	struct run r = {.o = o, .again = BUF_MAX((size_t)1 << 32)};

	path_set_init(&r.paths);
	path_set_init(&r.firsts);
	tar_writer_init_sink(&r.tar, sink);
	tar_writer_init_sink(&r.again_tar, (struct tar_sink){put_in_memory, &r});
	r.tar.plain = r.again_tar.plain = true;
	const int result = run(&r, layers, n, err);
	tar_writer_done(&r.tar);
	path_set_done(&r.paths);
	path_set_done(&r.firsts);
	tar_writer_done(&r.again_tar);
	buf_free(&r.again);
	free(r.marks);
	free(r.others);
	return result;
}
