/* The seek table of zstd's seekable format (contrib/seekable_format in its sources): a skippable
 * frame at the end of the file.
 *
 *   u32 0x184D2A5E, u32 size of what follows
 *   for each frame: u32 compressed bytes, u32 bytes of the stream, u32 low half of XXH64
 *   u32 number of frames, u8 0x80 (checksums are there), u32 0x8F92EAB1
 *
 * All little endian. libzstd reads it as padding, so any decompressor takes the file. What is
 * loaded here comes from a disk and is judged in full before a number of it is used. */
#include "frames.h"
#include "base/fd.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

enum { HEAD_BYTES = 8, ROW_BYTES = 12, FOOT_BYTES = 9 };
static const uint32_t HEAD_MAGIC = 0x184D2A5E, FOOT_MAGIC = 0x8F92EAB1;
enum { HAS_CHECKSUMS = 0x80 };

void
frames_table_done(struct frames_table *t)
{
	free(t->at);
	*t = (struct frames_table){0};
}

int
frames_table_add(struct frames_table *t, uint32_t bytes, uint32_t raw_bytes, uint32_t checksum,
		 struct err *err)
{
	if (t->n >= FRAMES_MAX)
		return err_set(err, ERR_USAGE, "more than %d MiB in one layer",
			       FRAMES_MAX / (1024 * 1024 / FRAME_BYTES));
	if (t->n == t->cap) {
		const size_t cap = t->cap ? t->cap * 2 : 64;
		struct frame_place *grown = realloc(t->at, cap * sizeof *grown);
		if (!grown)
			return err_set(err, ERR_UNAVAILABLE, "no memory for the seek table");
		t->at = grown;
		t->cap = cap;
	}
	t->at[t->n++] = (struct frame_place){t->bytes, t->raw_bytes, bytes, raw_bytes, checksum};
	t->bytes += bytes; /* FRAMES_MAX times 4 GiB fits */
	t->raw_bytes += raw_bytes;
	return 0;
}

static void
put_u32(struct buf *b, uint32_t v)
{
	const uint8_t bytes[4] = {(uint8_t)v, (uint8_t)(v >> 8), (uint8_t)(v >> 16),
				  (uint8_t)(v >> 24)};
	buf_add(b, bytes, sizeof bytes);
}

static uint32_t
get_u32(const char *at)
{
	const uint8_t *p = (const uint8_t *)at;
	return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

int
frames_table_encode(const struct frames_table *t, struct buf *out, struct err *err)
{
	put_u32(out, HEAD_MAGIC);
	put_u32(out, (uint32_t)(t->n * ROW_BYTES + FOOT_BYTES));
	for (size_t i = 0; i < t->n; i++) {
		put_u32(out, t->at[i].bytes);
		put_u32(out, t->at[i].raw_bytes);
		put_u32(out, t->at[i].checksum);
	}
	put_u32(out, (uint32_t)t->n);
	buf_char(out, (char)HAS_CHECKSUMS);
	put_u32(out, FOOT_MAGIC);
	if (buf_bad(out))
		return err_set(err, ERR_UNAVAILABLE, "no memory for the seek table");
	return 0;
}

static int
load_rows(struct frames_table *t, const char *rows, size_t n, uint64_t raw_max, struct err *err)
{
	for (size_t i = 0; i < n; i++, rows += ROW_BYTES) {
		const uint32_t bytes = get_u32(rows), raw = get_u32(rows + 4);
		if (bytes < 4 || raw == 0 || raw > FRAME_BYTES || bytes > 2 * FRAME_BYTES)
			return err_set(err, ERR_CORRUPT,
				       "frame %zu of the archive has a size that "
				       "cannot be",
				       i);
		if (frames_table_add(t, bytes, raw, get_u32(rows + 8), err) < 0)
			return -1;
		if (t->raw_bytes > raw_max)
			return err_set(err, ERR_CORRUPT,
				       "the archive holds more than the %llu bytes "
				       "that are allowed",
				       (unsigned long long)raw_max);
	}
	return 0;
}

int
frames_table_load(int fd, uint64_t raw_max, struct frames_table *out, struct buf *raw,
		  struct err *err)
{
	struct stat st;
	char foot[FOOT_BYTES];

	if (fstat(fd, &st) < 0)
		return err_sys(err, errno, "look at the archive");
	const uint64_t size = (uint64_t)st.st_size;
	if (size < HEAD_BYTES + FOOT_BYTES)
		return err_set(err, ERR_CORRUPT, "the archive is cut: %llu bytes are left of it",
			       (unsigned long long)size);
	if (fd_pread_all(fd, foot, sizeof foot, size - sizeof foot, err) < 0)
		return -1;
	const uint64_t n = get_u32(foot), table_bytes = HEAD_BYTES + n * ROW_BYTES + FOOT_BYTES;
	if (get_u32(foot + 5) != FOOT_MAGIC || (uint8_t)foot[4] != HAS_CHECKSUMS ||
	    n > FRAMES_MAX || table_bytes > size)
		return err_set(err, ERR_CORRUPT,
			       "the archive does not end in a seek table: it is cut "
			       "or was not written here");
	raw->max = table_bytes + 1;
	char *at = buf_room(raw, table_bytes);
	if (!at)
		return err_set(err, ERR_UNAVAILABLE, "no memory for the seek table");
	if (fd_pread_all(fd, at, table_bytes, size - table_bytes, err) < 0)
		return -1;
	raw->len += table_bytes;
	if (get_u32(at) != HEAD_MAGIC || get_u32(at + 4) != table_bytes - HEAD_BYTES)
		return err_set(err, ERR_CORRUPT, "the seek table of the archive is damaged");

	struct frames_table t = {0};
	if (load_rows(&t, at + HEAD_BYTES, (size_t)n, raw_max, err) < 0) {
		frames_table_done(&t);
		return -1;
	}
	if (t.bytes + table_bytes != size) {
		frames_table_done(&t);
		return err_set(err, ERR_CORRUPT, "the seek table of the archive does not add up");
	}
	*out = t;
	return 0;
}
