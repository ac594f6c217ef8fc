#include "content.h"
#include "base/fd.h"
#include "base/num.h"
#include "dirs.h"
#include "frames_at.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BLOCK = 512, MAP_MAX_BYTES = 16 << 20, NUMBER_MAX_DIGITS = 20 };

struct piece { /* of a sparse file: where in it, and where in the stream */
	uint64_t at, n, data_at;
};

struct content {
	struct frames_at *frames; /* lent; NULL: live */
	struct digest layer;
	int fd; /* owned; of a live file */
	uint64_t size, data_at;
	struct piece *pieces; /* owned; of a sparse file: in order */
	size_t n_pieces;
	bool sparse;
};

/* ---- the map of a sparse file (tar.c, build_map), which ends where the data begins ---- */

/* A header has letters in it; a map has digits, newlines and zeros alone. */
static bool
is_map(const char *block)
{
	for (size_t i = 0; i < BLOCK; i++)
		if (block[i] != '\0' && block[i] != '\n' && (block[i] < '0' || block[i] > '9'))
			return false;
	return true;
}

static int
damaged(struct err *err)
{
	return err_set(err, ERR_CORRUPT, "the map of a sparse file is damaged");
}

/* Back from the data to the header, block by block: how long the map is. */
static int
measure_map(const struct content *c, size_t *out, struct err *err)
{
	char block[BLOCK];
	size_t n = 0;

	for (;;) {
		if (n + BLOCK > c->data_at || n > MAP_MAX_BYTES)
			return damaged(err);
		if (frames_at_read(c->frames, c->data_at - n - BLOCK, block, BLOCK, err) < 0)
			return -1;
		if (!is_map(block))
			break;
		n += BLOCK;
	}
	*out = n;
	return n ? 0 : damaged(err);
}

static int
take_number(struct str *map, uint64_t *out, struct err *err)
{
	struct str line;

	if (!str_cut(map, '\n', &line) || line.len == 0 || line.len > NUMBER_MAX_DIGITS ||
	    num_parse(line, 0, INT64_MAX, out, err) < 0)
		return damaged(err);
	return 0;
}

static int
take_pieces(struct content *c, struct str map, struct err *err)
{
	uint64_t n, end = 0, data_at = c->data_at;

	if (take_number(&map, &n, err) < 0 || n > map.len / 4 + 1)
		return damaged(err);
	c->pieces = try_new((size_t)n + 1, sizeof *c->pieces);
	if (!c->pieces)
		return err_set(err, ERR_UNAVAILABLE, "no memory for a sparse file");
	for (uint64_t i = 0; i < n; i++) {
		struct piece p = {.data_at = data_at};
		if (take_number(&map, &p.at, err) < 0 || take_number(&map, &p.n, err) < 0)
			return -1;
		if (p.at < end || p.at > c->size || p.n > c->size - p.at)
			return damaged(err);
		end = p.at + p.n;
		data_at += p.n; /* at most size more: no overflow */
		c->pieces[c->n_pieces++] = p;
	}
	return 0;
}

static int
load_map(struct content *c, struct err *err)
{
	size_t n = 0;

	if (measure_map(c, &n, err) < 0)
		return -1;
	auto_free char *map = try_new(1, n);
	if (!map)
		return err_set(err, ERR_UNAVAILABLE, "no memory for a sparse file");
	if (frames_at_read(c->frames, c->data_at - n, map, n, err) < 0)
		return -1;
	return take_pieces(c, (struct str){map, n}, err);
}

/* ---- opening ---- */

static int
open_live(int upper, struct str path, struct err *err)
{
	const char *slash = path.len ? memrchr(path.at, '/', path.len) : NULL;
	const struct str dir = {path.at, slash ? (size_t)(slash - path.at) : 0};
	auto_free char *name =
	    xstrndup(slash ? (struct str){slash + 1, path.len - dir.len - 1} : path);
	struct stat st;

	auto_close int way = dirs_open(upper, dir, err);
	if (way < 0)
		return -1;
	auto_close int fd = openat(way, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return err_sys(err, errno, "open a file of the workspace");
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return err_set(err, ERR_AGAIN, "it was replaced meanwhile");
	return fd_steal(&fd);
}

static int
open_archived(struct view *v, const struct view_entry *e, struct content *c, struct err *err)
{
	c->size = e->row.size;
	c->data_at = e->row.data_at;
	c->sparse = e->row.sparse;
	c->layer = *view_digest(v, e->layer);
	c->frames = view_frames(v, e->layer, err);
	if (!c->frames)
		return -1;
	if (c->sparse)
		return load_map(c, err);
	const uint64_t all = frames_at_bytes(c->frames);
	if (c->size > all || c->data_at > all - c->size)
		return err_set(err, ERR_CORRUPT,
			       "the index of a layer leads to bytes that its archive has not");
	return 0;
}

static int
judge_type(enum entry_type type, struct err *err)
{
	if (type == ENTRY_FILE)
		return 0;
	err_set(err, ERR_USAGE, "%s",
		type == ENTRY_DIR       ? "it is a directory"
		: type == ENTRY_SYMLINK ? "it is a symbolic link"
					: "it is no file");
	return err_hint(err, "run: ssh berth@HOST files SNAPSHOT PATH");
}

struct content *
content_open(struct view *v, const struct view_entry *e, struct err *err)
{
	auto_of(content) struct content *c = xnew(1, sizeof *c);
	struct view_entry file;

	*c = (struct content){.fd = -1};
	if (view_resolve(v, e, &file, err) < 0 || judge_type(file.row.type, err) < 0)
		return NULL;
	if (view_digest(v, e->layer))
		return open_archived(v, &file, c, err) < 0 ? NULL : steal(&c);
	c->size = file.row.size;
	c->fd = open_live(view_upper(v), file.row.path, err);
	return c->fd < 0 ? NULL : steal(&c);
}

void
content_free(struct content *c)
{
	if (!c)
		return;
	fd_close(&c->fd);
	free(c->pieces);
	free(c);
}

uint64_t
content_bytes(const struct content *c)
{
	return c->size;
}

bool
content_place(const struct content *c, struct digest *out, uint64_t *out_at)
{
	*out = c->layer;
	*out_at = c->data_at;
	return c->frames != NULL;
}

/* ---- reading ---- */

static int
read_live(const struct content *c, uint64_t at, void *out, size_t n, size_t *out_n, struct err *err)
{
	ssize_t k;

	do
		k = pread(c->fd, out, n, (off_t)at);
	while (k < 0 && errno == EINTR);
	if (k < 0)
		return err_sys(err, errno, "read");
	*out_n = (size_t)k;
	return 0;
}

/* The first piece that ends behind `at`; n_pieces: none does. */
static size_t
piece_at(const struct content *c, uint64_t at)
{
	size_t low = 0, high = c->n_pieces;

	while (low < high) {
		const size_t mid = low + (high - low) / 2;
		if (c->pieces[mid].at + c->pieces[mid].n <= at)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

int
content_read(struct content *c, uint64_t at, void *out, size_t n, size_t *out_n, struct err *err)
{
	*out_n = 0;
	if (c->fd >= 0)
		return read_live(c, at, out, n, out_n, err);
	if (at >= c->size || n == 0)
		return 0;
	if (n > c->size - at)
		n = (size_t)(c->size - at);
	if (c->sparse) {
		const size_t i = piece_at(c, at);
		const struct piece *p = i < c->n_pieces ? &c->pieces[i] : NULL;
		const uint64_t end = p ? p->at <= at ? p->at + p->n : p->at : c->size;
		if (n > end - at)
			n = (size_t)(end - at);
		*out_n = n;
		if (p && p->at <= at)
			return frames_at_read(c->frames, p->data_at + (at - p->at), out, n, err);
		memset(out, 0, n);
		return 0;
	}
	*out_n = n;
	return frames_at_read(c->frames, c->data_at + at, out, n, err);
}
