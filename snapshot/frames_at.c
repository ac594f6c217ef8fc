#include "frames_at.h"
#include "base/fd.h"

#include <stdlib.h>
#include <zstd.h>

enum { FRAME_BYTES_MOST = 2 * FRAME_BYTES }; /* compressed; frames_table.c holds them to it */

struct frames_at {
	int fd;                   /* lent */
	struct frames_room *room; /* lent */
	struct frames_table table;
};

void
frames_room_done(struct frames_room *room)
{
	free(room->raw);
	free(room->bytes);
	ZSTD_freeDCtx(room->zstd);
	*room = (struct frames_room){0};
}

static int
open_room(struct frames_room *room, struct err *err)
{
	if (!room->raw)
		room->raw = malloc(FRAME_BYTES);
	if (!room->bytes)
		room->bytes = malloc(FRAME_BYTES_MOST);
	if (!room->zstd)
		room->zstd = ZSTD_createDCtx();
	if (!room->raw || !room->bytes || !room->zstd)
		return err_set(err, ERR_UNAVAILABLE, "no memory to decompress");
	return 0;
}

struct frames_at *
frames_at_new(int fd, struct frames_room *room, uint64_t raw_max, struct err *err)
{
	auto_of(frames_at) struct frames_at *f = xnew(1, sizeof *f);
	auto_buf bytes = BUF_MAX(0);

	*f = (struct frames_at){.fd = fd, .room = room};
	if (open_room(room, err) < 0 || frames_table_load(fd, raw_max, &f->table, &bytes, err) < 0)
		return NULL;
	room->read_bytes += bytes.len;
	return steal(&f);
}

void
frames_at_free(struct frames_at *f)
{
	if (!f)
		return;
	if (f->room->of == f)
		f->room->of = NULL;
	frames_table_done(&f->table);
	free(f);
}

uint64_t
frames_at_bytes(const struct frames_at *f)
{
	return f->table.raw_bytes;
}

/* The frame that holds this byte of the stream, which must be in it. */
static size_t
frame_of(const struct frames_at *f, uint64_t at)
{
	size_t low = 0, high = f->table.n;

	while (high - low > 1) {
		const size_t mid = low + (high - low) / 2;
		if (f->table.at[mid].raw_at <= at)
			low = mid;
		else
			high = mid;
	}
	return low;
}

static int
load(struct frames_at *f, size_t i, struct err *err)
{
	const struct frame_place *p = &f->table.at[i];
	struct frames_room *room = f->room;

	if (room->of == f && room->frame == i)
		return 0;
	room->of = NULL;
	if (fd_pread_all(f->fd, room->bytes, p->bytes, p->at, err) < 0)
		return err_add(err, "frame %zu of the archive", i);
	room->read_bytes += p->bytes;
	const size_t n =
	    ZSTD_decompressDCtx(room->zstd, room->raw, p->raw_bytes, room->bytes, p->bytes);
	const uint8_t *c = (const uint8_t *)room->bytes + p->bytes - 4;
	const uint32_t checksum =
	    (uint32_t)c[0] | (uint32_t)c[1] << 8 | (uint32_t)c[2] << 16 | (uint32_t)c[3] << 24;
	if (ZSTD_isError(n) || n != p->raw_bytes || checksum != p->checksum)
		return err_set(err, ERR_CORRUPT, "frame %zu of the archive is damaged: %s", i,
			       ZSTD_isError(n) ? ZSTD_getErrorName(n)
					       : "its size or checksum differs");
	room->of = f;
	room->frame = i;
	return 0;
}

int
frames_at_read(struct frames_at *f, uint64_t at, void *out, size_t n, struct err *err)
{
	char *to = out;

	if (n > f->table.raw_bytes || at > f->table.raw_bytes - n)
		return err_set(err, ERR_CORRUPT,
			       "the archive has %llu bytes, and not those behind %llu",
			       (unsigned long long)f->table.raw_bytes, (unsigned long long)at);
	while (n) {
		const size_t i = frame_of(f, at);
		if (load(f, i, err) < 0)
			return -1;
		const size_t from = (size_t)(at - f->table.at[i].raw_at);
		const size_t there = f->table.at[i].raw_bytes - from;
		const size_t k = there < n ? there : n;
		memcpy(to, f->room->raw + from, k);
		to += k;
		at += k;
		n -= k;
	}
	return 0;
}
