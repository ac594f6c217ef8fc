#include "rebuild.h"
#include "attrs.h"
#include "base/fd.h"
#include "idx.h"
#include "tar.h"
#include "unpack.h"
#include "walk.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

enum { STEP_ENTRIES = 64, LINK_MAX_BYTES = 4096 };

static int
make_file(struct err *err)
{
	const int fd = memfd_create("index", MFD_CLOEXEC);
	return fd < 0 ? err_sys(err, errno, "make a file in memory") : fd;
}

/* ---- an archive's ---- */

/* A file that is one hole says so only by having no data. */
static int
put(struct idx_writer *w, struct tar_reader *tar, struct entry *e, struct err *err)
{
	const uint64_t data_at = tar_data_at(tar);
	struct str piece;
	uint64_t at;

	if (e->type == ENTRY_FILE && e->size && !e->sparse) {
		const int more = tar_read(tar, &piece, &at, err);
		if (more < 0)
			return -1;
		e->sparse = more == 0;
	}
	return idx_put(w, e, data_at, err);
}

int
rebuild_into(const struct layer_options *o, int blob, int into, struct frames_sum *out,
	     struct layer_counts *out_counts, struct err *err)
{
	struct layer_counts n = {0};
	struct entry e;
	int more;

	auto_of(frames_reader) struct frames_reader *frames =
	    frames_reader_new(blob, unpack_threads(o), LAYER_RAW_MAX_BYTES, err);
	if (!frames)
		return -1;
	auto_of(tar_reader) struct tar_reader *tar = tar_reader_new(frames, err);
	if (!tar)
		return -1;
	auto_of(idx_writer) struct idx_writer *w = idx_writer_new(into, err);
	if (!w)
		return -1;
	while ((more = tar_next(tar, &e, err)) > 0) {
		if (put(w, tar, &e, err) < 0)
			return -1;
		n.entries++;
		n.files += e.type == ENTRY_FILE;
		n.raw_bytes = tar_data_at(tar);
		if (n.entries > LAYER_ENTRIES_MAX)
			return err_set(err, ERR_CORRUPT, "more than %d entries", LAYER_ENTRIES_MAX);
		if (n.entries % STEP_ENTRIES == 0 && o->watch.step &&
		    o->watch.step(o->watch.ctx, n.raw_bytes, n.entries, err) < 0)
			return -1;
	}
	if (more < 0 || frames_reader_sum(frames, out, err) < 0 || idx_finish(w, out, err) < 0)
		return -1;
	n.bytes = out->bytes;
	n.raw_bytes = out->raw_bytes;
	*out_counts = n;
	return 0;
}

int
rebuild_archive(const struct layer_options *o, int blob, const struct digest *digest,
		struct err *err)
{
	struct layer_counts counts;
	struct frames_sum sum;

	auto_close int fd = make_file(err);
	if (fd < 0 || rebuild_into(o, blob, fd, &sum, &counts, err) < 0 ||
	    unpack_judge(&sum, digest, NULL, err) < 0)
		return -1;
	return fd_steal(&fd);
}

/* ---- a live upper's ---- */

struct run {
	const struct layer_options *o;
	struct idx_writer *w; /* lent */
	uint64_t entries;
};

/* The marks of overlayfs, where there can be any. ABSENT is no failure: it vanished. */
static int
load_marks(const struct walk_entry *w, unsigned *out, struct err *err)
{
	auto_attrs attrs = {0};

	*out = 0;
	auto_close int fd = openat(w->dir, w->name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : err_sys(err, errno, "open");
	return attrs_load(fd, &attrs, out, err);
}

static int
take(void *ctx, const struct walk_entry *w, struct err *err)
{
	struct run *r = ctx;
	char target[LINK_MAX_BYTES];
	unsigned marks = 0;
	struct entry e = {
	    .type = S_ISDIR(w->st.st_mode)    ? ENTRY_DIR
		    : S_ISLNK(w->st.st_mode)  ? ENTRY_SYMLINK
		    : S_ISFIFO(w->st.st_mode) ? ENTRY_FIFO
		    : S_ISREG(w->st.st_mode)  ? ENTRY_FILE
					      : ENTRY_WHITEOUT,
	    .path = w->path,
	    .mode = w->st.st_mode & 07777,
	    .uid = r->o->one_owner ? 0 : w->st.st_uid,
	    .gid = r->o->one_owner ? 0 : w->st.st_gid,
	    .mtime_s = w->st.st_mtim.tv_sec,
	    .mtime_ns = (uint32_t)w->st.st_mtim.tv_nsec,
	};

	const bool marked = e.type == ENTRY_DIR || (e.type == ENTRY_FILE && !w->st.st_size);
	if (marked && load_marks(w, &marks, err) < 0)
		return -1;
	if (e.type == ENTRY_FILE && marks & MARK_WHITEOUT)
		e.type = ENTRY_WHITEOUT;
	if (e.type == ENTRY_FILE)
		e.size = (uint64_t)w->st.st_size;
	if (e.type == ENTRY_SYMLINK) {
		const ssize_t n = readlinkat(w->dir, w->name, target, sizeof target);
		if (n < 0)
			return errno == ENOENT ? 0 : err_sys(err, errno, "read a link");
		e.link = (struct str){target, (size_t)n};
	}
	if (++r->entries % STEP_ENTRIES == 0 && r->o->watch.step &&
	    r->o->watch.step(r->o->watch.ctx, 0, r->entries, err) < 0)
		return -1;
	if (idx_put(r->w, &e, 0, err) < 0)
		return -1;
	e = (struct entry){.type = ENTRY_OPAQUE, .path = w->path};
	return marks & MARK_OPAQUE ? idx_put(r->w, &e, 0, err) : 0;
}

static int
leave(void *ctx, struct str dir, struct err *err)
{
	(void)ctx;
	(void)dir;
	(void)err;
	return 0;
}

int
rebuild_upper(const struct layer_options *o, int upper, struct err *err)
{
	static const struct walk_calls calls = {take, leave};
	const struct frames_sum none = {0};
	uint64_t skipped;

	auto_close int fd = make_file(err);
	if (fd < 0)
		return -1;
	auto_of(idx_writer) struct idx_writer *w = idx_writer_new(fd, err);
	struct run r = {.o = o, .w = w};
	if (!w || walk_tree(upper, &calls, &r, &skipped, err) < 0 || idx_finish(w, &none, err) < 0)
		return -1;
	return fd_steal(&fd);
}
