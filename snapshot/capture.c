/* From an upper to a layer: what the walk meets is compared with what the run before saw, and what
 * differs is written.
 *
 * Invariants:
 *  1. on top of the run before, a layer gives exactly what the upper holds now;
 *  2. an entry stands behind its directories, which are written when something in them is, changed
 *     or not: overlayfs shows a directory's owner, mode and times as its topmost layer has them;
 *  3. a name that is gone becomes a deletion, but not inside a directory that is itself new and
 *     opaque (all of it is written again), nor below another deletion;
 *  4. the root alone is no layer, unless its own owner, mode or attributes changed. */
#include "layer.h"
#include "base/fd.h"
#include "base/time.h"
#include "compare.h"
#include "contents.h"
#include "dirs.h"
#include "layer_out.h"
#include "links.h"
#include "walk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

enum { EXTENTS_MAX = 1 << 15 };
static const int64_t RACY_NS = 20 * (int64_t)NS_PER_MS; /* two of the slowest ticks */

struct capture {
	struct layer_options o;
	int upper, scratch; /* lent */
	bool has_before;
	struct compare before; /* what the last run that succeeded saw */
	int next;              /* owned: where the next one is to note what it sees; -1: anywhere */
};

struct level { /* a directory on the way to where the walk is */
	struct stat st;
	size_t path_len;
	bool written;
	bool forced; /* all in it is written, whatever was seen before */
};

struct run {
	const struct layer_options *o;
	int upper;
	unsigned how;           /* enum capture_how */
	struct compare *before; /* lent; NULL: the first run */
	struct compare now;
	struct layer_out out;
	struct links links;
	struct level *levels; /* owned */
	size_t n_levels, levels_cap;
	struct buf gone; /* below this path all records of before are dealt with */
	bool has_gone;
	struct seen match;
	int64_t racy_from_ns;
	struct extent *extents; /* owned; EXTENTS_MAX */
};

static struct entry
entry_of(const struct run *r, const struct stat *st, enum entry_type type, struct str path,
	 const struct attrs *attrs)
{
	return (struct entry){
	    .type = type,
	    .path = path,
	    .mode = st->st_mode & 07777,
	    .uid = r->o->one_owner ? 0 : st->st_uid,
	    .gid = r->o->one_owner ? 0 : st->st_gid,
	    .size = type == ENTRY_FILE ? (uint64_t)st->st_size : 0,
	    .mtime_s = st->st_mtim.tv_sec,
	    .mtime_ns = (uint32_t)st->st_mtim.tv_nsec,
	    .attrs = attrs,
	};
}

/* ---- directories on the way ---- */

static int
open_to_read(int dir, const char *name, int more)
{
	const int flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | more;
	const int fd = openat(dir, name, flags | O_NOATIME);
	return fd >= 0 || errno != EPERM ? fd : openat(dir, name, flags);
}

static int
write_dir(struct run *r, struct level *l, struct str path, const struct attrs *attrs,
	  struct err *err)
{
	const struct entry e = entry_of(r, &l->st, ENTRY_DIR, path, attrs);
	bool torn;

	l->written = true;
	return layer_out_put(&r->out, &e, -1, &torn, err);
}

/* Those of the way that are not written yet (invariant 2). `path` leads through all of them. */
static int
write_way(struct run *r, struct str path, struct err *err)
{
	for (size_t i = 0; i < r->n_levels; i++) {
		struct level *l = &r->levels[i];
		auto_attrs attrs = {0};
		unsigned marks;
		if (l->written)
			continue;
		const struct str here = {path.at, l->path_len};
		auto_close int way = dirs_open(r->upper, here, err);
		if (way < 0)
			return -1;
		auto_close int fd = open_to_read(way, ".", O_DIRECTORY);
		if (fd < 0)
			return err_sys(err, errno, "open a directory again");
		if (attrs_load(fd, &attrs, &marks, err) < 0 ||
		    write_dir(r, l, here, &attrs, err) < 0)
			return -1;
	}
	return 0;
}

static struct level *
push_level(struct run *r, const struct stat *st, struct str path, bool forced, struct err *err)
{
	if (r->n_levels == r->levels_cap) {
		const size_t cap = r->levels_cap ? r->levels_cap * 2 : 16;
		struct level *grown = realloc(r->levels, cap * sizeof *grown);
		if (!grown) {
			err_set(err, ERR_UNAVAILABLE, "no memory for a directory");
			return NULL;
		}
		r->levels = grown;
		r->levels_cap = cap;
	}
	r->levels[r->n_levels] = (struct level){*st, path.len, false, forced};
	return &r->levels[r->n_levels++];
}

static bool
is_forced(const struct run *r)
{
	return r->how & CAPTURE_TRUST_NOTHING || (r->n_levels && r->levels[r->n_levels - 1].forced);
}

/* ---- what was there before ---- */

static void
set_gone(struct run *r, struct str path)
{
	buf_clear(&r->gone);
	buf_str(&r->gone, path);
	r->has_gone = true;
}

/* A record that the walk did not meet (invariant 3). */
static int
vanish(struct run *r, struct err *err)
{
	const struct str path = buf_view(&r->before->path);
	bool torn;

	if (r->has_gone && walk_is_below(path, buf_view(&r->gone)))
		return 0;
	if (r->before->seen.type == ENTRY_WHITEOUT)
		return 0; /* its deletion stands in the layer below, and stays */
	const struct entry e = {.type = ENTRY_WHITEOUT, .path = path};
	if (write_way(r, path, err) < 0 || layer_out_put(&r->out, &e, -1, &torn, err) < 0)
		return -1;
	set_gone(r, path);
	return 0;
}

/* Deals with all records before `path`. *out: the one of this path, or NULL. */
static int
catch_up(struct run *r, struct str path, const struct seen **out, struct err *err)
{
	*out = NULL;
	if (!r->before)
		return 0;
	while (r->before->have) {
		const int order = walk_order(buf_view(&r->before->path), path);
		if (order > 0)
			return 0;
		if (order < 0 && vanish(r, err) < 0)
			return -1;
		if (order == 0) {
			r->match = r->before->seen;
			*out = &r->match;
		}
		if (compare_next(r->before, err) < 0)
			return -1;
		if (order == 0)
			return 0;
	}
	return 0;
}

static int
leave(void *ctx, struct str dir, struct err *err)
{
	struct run *r = ctx;

	while (r->before && r->before->have && walk_is_below(buf_view(&r->before->path), dir))
		if (vanish(r, err) < 0 || compare_next(r->before, err) < 0)
			return -1;
	r->n_levels--;
	return 0;
}

/* ---- contents ---- */

/* Where a file with holes has data. Past EXTENTS_MAX the rest counts as data. */
static int
find_extents(struct run *r, int fd, struct entry *e, struct err *err)
{
	off_t at = 0;

	if (!r->extents)
		r->extents = xnew(EXTENTS_MAX, sizeof *r->extents);
	while ((uint64_t)at < e->size) {
		const off_t from = lseek(fd, at, SEEK_DATA);
		if (from < 0 && errno == ENXIO)
			break;
		off_t to = from < 0 ? -1 : lseek(fd, from, SEEK_HOLE);
		if (from < 0 || to < 0)
			return err_sys(err, errno, "look for holes");
		if ((uint64_t)to > e->size || e->n_extents == EXTENTS_MAX - 1)
			to = (off_t)e->size;
		if ((uint64_t)from >= e->size)
			break;
		r->extents[e->n_extents++] = (struct extent){(uint64_t)from, (uint64_t)(to - from)};
		at = to;
	}
	const bool solid = e->n_extents == 1 && r->extents[0].at == 0 && r->extents[0].n == e->size;
	e->sparse = !solid;
	e->extents = r->extents;
	if (solid)
		e->n_extents = 0;
	return 0;
}

/* ---- entries ---- */

struct visit { /* one entry that is not a directory */
	struct entry e;
	struct attrs attrs; /* owned */
	struct buf target;
	int fd; /* owned; of a file or fifo */
	struct seen seen;
};

static void
visit_done(struct visit *v)
{
	attrs_done(&v->attrs);
	buf_free(&v->target);
	fd_close(&v->fd);
}

static int
load_link(const struct walk_entry *w, struct visit *v, struct err *err)
{
	char *room = buf_room(&v->target, 4096);
	if (!room)
		return err_set(err, ERR_UNAVAILABLE, "no memory for a link");
	const ssize_t n = readlinkat(w->dir, w->name, room, 4096);
	if (n < 0)
		return err_sys(err, errno, "read a link");
	v->target.len = (size_t)n;
	v->e.link = buf_view(&v->target);
	return 0;
}

/* Everything about an entry but its data. 0: it vanished. */
static int
load_visit(struct run *r, const struct walk_entry *w, struct visit *v, struct err *err)
{
	unsigned marks = 0;
	const enum entry_type type = S_ISREG(w->st.st_mode)    ? ENTRY_FILE
				     : S_ISLNK(w->st.st_mode)  ? ENTRY_SYMLINK
				     : S_ISFIFO(w->st.st_mode) ? ENTRY_FIFO
							       : ENTRY_WHITEOUT;

	if (type == ENTRY_FILE || type == ENTRY_FIFO) {
		v->fd = open_to_read(w->dir, w->name, 0);
		if (v->fd < 0)
			return errno == ENOENT ? 0 : err_sys(err, errno, "open");
		if (attrs_load(v->fd, &v->attrs, &marks, err) < 0)
			return -1;
	}
	v->e = entry_of(r, &w->st, type, w->path, &v->attrs);
	if (type == ENTRY_SYMLINK && load_link(w, v, err) < 0)
		return -1;
	if (type == ENTRY_WHITEOUT ||
	    (type == ENTRY_FILE && marks & MARK_WHITEOUT && !w->st.st_size))
		v->e = (struct entry){.type = ENTRY_WHITEOUT, .path = w->path};
	if (v->e.type == ENTRY_FILE && w->st.st_size &&
	    (uint64_t)w->st.st_blocks * 512 < (uint64_t)w->st.st_size &&
	    find_extents(r, v->fd, &v->e, err) < 0)
		return -1;
	v->seen.type = (uint32_t)v->e.type;
	if (v->seen.flags & SEEN_RACY && contents_digest(&v->e, v->fd, &v->seen.content, err) < 0)
		return -1;
	return 1;
}

static int
write_visit(struct run *r, const struct walk_entry *w, struct visit *v, struct err *err)
{
	const bool several = w->st.st_nlink > 1 && v->e.type != ENTRY_WHITEOUT;
	const char *first = several ? links_find(&r->links, w->st.st_ino) : NULL;
	bool torn = false;

	if (write_way(r, w->path, err) < 0)
		return -1;
	if (first) {
		const struct attrs none = {0};
		v->e = entry_of(r, &w->st, ENTRY_LINK, w->path, &none);
		v->e.link = str_of(first);
		return layer_out_put(&r->out, &v->e, -1, &torn, err);
	}
	if (several && links_add(&r->links, w->st.st_ino, w->path, err) < 0)
		return -1;
	if (r->how & CAPTURE_MAPPED && v->e.type == ENTRY_FILE && contents_clean(v->fd) < 0)
		v->seen.flags |= SEEN_TORN;
	if (layer_out_put(&r->out, &v->e, v->fd, &torn, err) < 0)
		return -1;
	if (torn)
		v->seen.flags |= SEEN_TORN;
	return 0;
}

static int
enter_other(struct run *r, const struct walk_entry *w, struct err *err)
{
	__attribute__((cleanup(visit_done))) struct visit v = {.fd = -1, .target = BUF_MAX(4096)};
	const struct seen *before;

	if (catch_up(r, w->path, &before, err) < 0)
		return -1;
	v.seen = seen_of(&w->st, ENTRY_FILE, r->racy_from_ns);
	const bool same = before && !is_forced(r) && before->type != ENTRY_DIR &&
			  !(before->flags & SEEN_TORN) && seen_same(before, &v.seen);
	if (same && !((before->flags | v.seen.flags) & SEEN_RACY)) {
		v.seen.type = before->type;
		return compare_add(&r->now, w->path, &v.seen, err);
	}
	if (S_ISCHR(w->st.st_mode) && before && before->type == ENTRY_WHITEOUT && !is_forced(r)) {
		v.seen.type =
		    ENTRY_WHITEOUT; /* overlayfs makes them links of one inode: its ctime moves */
		return compare_add(&r->now, w->path, &v.seen, err);
	}
	const uint32_t own = v.seen.flags;
	v.seen.flags |= before ? before->flags & SEEN_RACY : 0; /* then its content decides */
	const int loaded = load_visit(r, w, &v, err);
	if (loaded <= 0)
		return loaded;
	v.seen.flags = own; /* it has been read now: a later change has a later ctime */
	if (before && before->type == ENTRY_DIR)
		set_gone(r, w->path); /* what was in it is hidden by what is there now */
	const bool unchanged = same && before->flags & SEEN_RACY && before->type == v.seen.type &&
			       digest_equal(&before->content, &v.seen.content);
	if (!unchanged && write_visit(r, w, &v, err) < 0)
		return -1;
	return compare_add(&r->now, w->path, &v.seen, err);
}

/* The root of a first run: an upper is made as 0755 of root, which nobody changed. */
static bool
is_plain_root(const struct stat *st, const struct attrs *attrs)
{
	return (st->st_mode & 07777) == 0755 && st->st_uid == 0 && st->st_gid == 0 && attrs->n == 0;
}

static int
enter_changed_dir(struct run *r, const struct walk_entry *w, const struct seen *before, bool same,
		  struct seen *now, struct err *err)
{
	auto_attrs attrs = {0};
	unsigned marks;
	bool torn;

	auto_close int fd = open_to_read(w->dir, w->name, O_DIRECTORY);
	if (fd < 0)
		return err_sys(err, errno, "open");
	if (attrs_load(fd, &attrs, &marks, err) < 0)
		return -1;
	struct entry e = entry_of(r, &w->st, ENTRY_DIR, w->path, &attrs);
	if ((now->flags & SEEN_RACY) && contents_digest(&e, -1, &now->content, err) < 0)
		return -1;
	if (marks & MARK_OPAQUE)
		now->flags |= SEEN_OPAQUE;

	const bool was_dir = before && before->type == ENTRY_DIR;
	const bool opaque =
	    marks & MARK_OPAQUE &&
	    (is_forced(r) || !was_dir || before->ino != now->ino || !(before->flags & SEEN_OPAQUE));
	const bool unchanged =
	    same && before->flags & SEEN_RACY && digest_equal(&before->content, &now->content);
	if (opaque && was_dir)
		set_gone(r, w->path);
	struct level *l = push_level(r, &w->st, w->path, opaque || is_forced(r), err);
	if (!l)
		return -1;
	if (!opaque && unchanged)
		return 0;
	const bool wanted = r->how & CAPTURE_ROOT;
	if (w->path.len == 0 && !before && !opaque && !wanted && is_plain_root(&w->st, &attrs))
		return 0; /* invariant 4: it is written with the first entry */
	r->n_levels--;    /* the way to it, without it */
	int result = write_way(r, w->path, err);
	r->n_levels++;
	if (result == 0)
		result = write_dir(r, l, w->path, &attrs, err);
	e = (struct entry){.type = ENTRY_OPAQUE, .path = w->path};
	if (result == 0 && opaque)
		result = layer_out_put(&r->out, &e, -1, &torn, err);
	return result;
}

static int
enter_dir(struct run *r, const struct walk_entry *w, struct err *err)
{
	const struct seen *before;

	if (catch_up(r, w->path, &before, err) < 0)
		return -1;
	struct seen now = seen_of(&w->st, ENTRY_DIR, r->racy_from_ns);
	const bool same =
	    before && !is_forced(r) && before->type == ENTRY_DIR && seen_same(before, &now);
	if (same && !((before->flags | now.flags) & SEEN_RACY)) {
		now.flags |= before->flags & SEEN_OPAQUE;
		if (!push_level(r, &w->st, w->path, false, err))
			return -1;
	} else {
		const uint32_t own = now.flags;
		now.flags |= before ? before->flags & SEEN_RACY : 0;
		if (enter_changed_dir(r, w, before, same, &now, err) < 0)
			return -1;
		now.flags = (now.flags & SEEN_OPAQUE) | own;
	}
	return compare_add(&r->now, w->path, &now, err);
}

static int
enter(void *ctx, const struct walk_entry *w, struct err *err)
{
	struct run *r = ctx;
	return S_ISDIR(w->st.st_mode) ? enter_dir(r, w, err) : enter_other(r, w, err);
}

/* ---- a run ---- */

static void
run_done(struct run *r)
{
	compare_done(&r->now);
	layer_out_done(&r->out);
	links_done(&r->links);
	buf_free(&r->gone);
	free(r->levels);
	free(r->extents);
}

struct capture *
capture_new(const struct layer_options *o, int upper, int scratch, struct err *err)
{
	struct capture *c = xnew(1, sizeof *c);

	c->o = *o;
	if (!c->o.level)
		c->o.level = 1;
	if (!c->o.threads)
		c->o.threads = 1;
	if (c->o.threads > FRAMES_THREADS_MAX)
		c->o.threads = FRAMES_THREADS_MAX;
	c->upper = upper;
	c->scratch = scratch;
	c->before = COMPARE_NONE;
	c->next = -1;
	if (blob_store_init(o->store, err) < 0) {
		capture_free(c);
		return NULL;
	}
	return c;
}

void
capture_free(struct capture *c)
{
	if (!c)
		return;
	compare_done(&c->before);
	fd_close(&c->next);
	free(c);
}

int
capture_remember(struct capture *c, int take_before, int take_next, const struct digest *snapshot,
		 struct err *err)
{
	fd_close(&c->next);
	c->next = take_next;
	c->has_before = false;
	compare_done(&c->before);
	if (take_before < 0)
		return 0;
	const int believed = compare_open(&c->before, take_before, snapshot, err);
	c->has_before = believed == 1;
	return believed < 0 ? err_add(err, "what was seen before") : believed;
}

int
capture_seal(struct capture *c, const struct digest *snapshot, struct err *err)
{
	return compare_seal(&c->before, snapshot, err);
}

static int
begin_notes(struct capture *c, struct run *r, struct err *err)
{
	if (c->next >= 0)
		return compare_begin_in(&r->now, fd_steal(&c->next), err);
	return compare_begin(&r->now, c->scratch, err);
}

int
capture_run(struct capture *c, unsigned how, struct frames_sum *out,
	    struct layer_counts *out_counts, struct err *err)
{
	static const struct walk_calls calls = {enter, leave};
	__attribute__((cleanup(run_done))) struct run r = {
	    .o = &c->o,
	    .upper = c->upper,
	    .how = how,
	    .before = c->has_before ? &c->before : NULL,
	    .now = COMPARE_NONE,
	    .out = {.blob = BLOB_WRITER_NONE, .index = BLOB_WRITER_NONE},
	    .gone = BUF_MAX(ENTRY_PATH_MAX_BYTES),
	    .racy_from_ns = (int64_t)time_real_ns() - RACY_NS,
	};
	struct frames_sum sum = {0};
	uint64_t skipped;

	links_init(&r.links);
	if (begin_notes(c, &r, err) < 0 || (r.before && compare_rewind(r.before, err) < 0) ||
	    layer_out_begin(&r.out, &c->o, err) < 0 ||
	    walk_tree(c->upper, &calls, &r, &skipped, err) < 0)
		return err_add(err, "capture");
	const struct layer_watch *watch = &c->o.watch;
	const bool any = r.out.counts.entries > 0;
	if (watch->all_read && watch->all_read(watch->ctx, r.out.counts.raw_bytes, err) < 0)
		return err_add(err, "capture");
	if (any && layer_out_commit(&r.out, &sum, err) < 0)
		return err_add(err, "capture");

	compare_done(&c->before);
	c->before = r.now;
	c->has_before = true;
	r.now = COMPARE_NONE;
	*out = sum;
	*out_counts = r.out.counts;
	out_counts->skipped = skipped;
	if (!any)
		*out_counts = (struct layer_counts){.skipped = skipped};
	return any;
}
