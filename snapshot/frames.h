/* A stream of bytes as zstd frames that can be read at random: each frame is independent and holds
 * FRAME_BYTES of the stream (the last one less), and the last thing in the file is the seek table
 * of zstd's own seekable format, a skippable frame. `zstd -d` reads it as one stream.
 *
 * Invariants:
 *  1. the bytes depend on the input, the level and the zstd version alone, never on the threads;
 *  2. frames are written in order; at most threads + 9 are in memory at once, and of a reader threads + 3;
 *  3. the writer's digest is that of exactly the bytes it wrote, its diff_id that of its input;
 *  4. a reader hands out a byte only after its frame was decompressed in full and its size and
 *     checksum agreed with the table; the digests are known at the end. */
#ifndef BERTH_FRAMES_H
#define BERTH_FRAMES_H

#include "base/buf.h"
#include "base/digest.h"
#include "base/err.h"

#include <stdint.h>

enum { FRAME_BYTES = 1 << 20, FRAMES_THREADS_MAX = 12, FRAMES_MAX = 1 << 22 };

struct frames_sum {
	struct digest digest;  /* of the file */
	struct digest diff_id; /* of the stream */
	uint64_t bytes, raw_bytes;
};

/* ---- writing ---- */
struct frames_writer;

/* fd: lent, written from its position on. threads: 1 to FRAMES_THREADS_MAX compress. NULL: failed.
 */
struct frames_writer *frames_writer_new(int fd, int level, unsigned threads,
					struct err *err) must_check;
void frames_writer_free(struct frames_writer *w); /* ends the threads; what is unwritten is lost */
AUTO_OF(frames_writer)
/* Room for bytes of the stream, at least one: *n says how many. Waits while all frames are being
 * compressed. NULL: a thread failed. What was filled in is handed over with frames_filled. */
char *frames_room(struct frames_writer *w, size_t *n, struct err *err) must_check;
void frames_filled(struct frames_writer *w, size_t n);
int frames_add(struct frames_writer *w, const void *bytes, size_t n, struct err *err) must_check;
/* Writes what is left and the seek table. Nothing can be added afterwards. */
int frames_finish(struct frames_writer *w, struct frames_sum *out, struct err *err) must_check;

/* ---- reading ---- */
struct frames_reader;

/* Reads and judges the seek table; fails with CORRUPT when the file is not of this form or holds
 * more than raw_max bytes. fd: lent. NULL: failed. */
struct frames_reader *frames_reader_new(int fd, unsigned threads, uint64_t raw_max,
					struct err *err) must_check;
/* The same without the digest of the stream, which is zero then: that of the file settles all bytes
 * of it, and hashing the stream too is a quarter of an unpack. */
struct frames_reader *frames_reader_by_digest(int fd, unsigned threads, uint64_t raw_max,
					      struct err *err) must_check;
void frames_reader_free(struct frames_reader *r);
AUTO_OF(frames_reader)
/* The next frame's bytes, lent until the next call. 1 bytes, 0 the end, -1. */
int frames_next(struct frames_reader *r, struct str *out, struct err *err) must_check;
/* After the end: what the file and the stream were. */
int frames_reader_sum(struct frames_reader *r, struct frames_sum *out, struct err *err) must_check;
/* As the seek table says. */
uint64_t frames_raw_bytes(const struct frames_reader *r);

/* ---- the seek table, for both (frames_table.c) ---- */
struct frame_place {
	uint64_t at;                         /* in the file */
	uint64_t raw_at;                     /* in the stream */
	uint32_t bytes, raw_bytes, checksum; /* checksum: the low half of XXH64 */
};

struct frames_table {
	struct frame_place *at; /* owned */
	size_t n, cap;
	uint64_t bytes, raw_bytes; /* of all frames, without the table itself */
};

void frames_table_done(struct frames_table *t);
int frames_table_add(struct frames_table *t, uint32_t bytes, uint32_t raw_bytes, uint32_t checksum,
		     struct err *err) must_check;
/* The skippable frame that ends the file. */
int frames_table_encode(const struct frames_table *t, struct buf *out, struct err *err) must_check;
int frames_table_load(int fd, uint64_t raw_max, struct frames_table *out, struct buf *raw,
		      struct err *err) must_check;

#endif
