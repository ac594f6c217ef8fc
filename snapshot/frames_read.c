/* Reading frames: decompressors run ahead of the owner, and one hasher reads everything in order.
 *
 *   decompressor (n) ──READY──▶ owner and hasher, each in order ──both let go──▶ FREE
 *
 * The ring is that of frames.c, seen from the other side. An archive of one frame has no ring: its
 * owner does it all, since the threads would cost more than most of what such a one holds. */
#include "frames.h"
#include "base/fd.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <zstd.h>

enum { SLOTS_MORE = 3, STACK_BYTES = 256 * 1024 };

struct slot {
	bool ready;        /* holds its frame */
	unsigned users;    /* owner and hasher, as far as they have not let go */
	char *raw, *bytes; /* owned; as large as the largest frame */
	size_t raw_n, n;
};

struct frames_reader {
	int fd; /* lent */
	struct frames_table table;
	struct buf table_bytes;
	struct slot *slots; /* owned */
	size_t n_slots;
	pthread_t threads[FRAMES_THREADS_MAX + 1];
	unsigned n_threads;
	bool holding; /* the owner has the frame before `next` */

	bool whole; /* the stream is hashed too */

	pthread_mutex_t lock; /* guards all below, and ready and users of the slots */
	/* One for each who waits: the decompressors, and those who use frames in order. */
	pthread_cond_t is_free, is_ready;
	uint64_t taken, next, hashed; /* frames: being decompressed, of the owner, of the hasher */
	bool stop, failed;
	struct err why;

	struct hasher *hash_file, *hash_stream; /* owned; the hasher's until it has ended */
};

/* With the lock. */
static void
wake_all(struct frames_reader *r)
{
	pthread_cond_broadcast(&r->is_free);
	pthread_cond_broadcast(&r->is_ready);
}

static void
fail(struct frames_reader *r, const struct err *why)
{
	pthread_mutex_lock(&r->lock);
	if (!r->failed) {
		r->failed = true;
		r->why = *why;
	}
	wake_all(r);
	pthread_mutex_unlock(&r->lock);
}

/* ---- decompressors ---- */

/* The next frame nobody has taken, when its slot is free; false: there is none any more. */
static bool
take_frame(struct frames_reader *r, uint64_t *out)
{
	bool taken = false;

	pthread_mutex_lock(&r->lock);
	while (!r->stop && !r->failed && r->taken < r->table.n) {
		struct slot *s = &r->slots[r->taken % r->n_slots];
		if (s->users == 0) {
			s->users = 2;
			s->ready = false;
			*out = r->taken++;
			taken = true;
			break;
		}
		pthread_cond_wait(&r->is_free, &r->lock);
	}
	pthread_mutex_unlock(&r->lock);
	return taken;
}

static int
load_frame(struct frames_reader *r, ZSTD_DCtx *zstd, uint64_t i, struct err *err)
{
	const struct frame_place *p = &r->table.at[i];
	struct slot *s = &r->slots[i % r->n_slots];

	s->n = p->bytes;
	if (fd_pread_all(r->fd, s->bytes, s->n, p->at, err) < 0)
		return err_add(err, "frame %llu of the archive", (unsigned long long)i);
	s->raw_n = ZSTD_decompressDCtx(zstd, s->raw, p->raw_bytes, s->bytes, s->n);
	const uint8_t *c = (const uint8_t *)s->bytes + s->n - 4;
	const uint32_t checksum =
	    (uint32_t)c[0] | (uint32_t)c[1] << 8 | (uint32_t)c[2] << 16 | (uint32_t)c[3] << 24;
	if (ZSTD_isError(s->raw_n) || s->raw_n != p->raw_bytes || checksum != p->checksum)
		return err_set(err, ERR_CORRUPT, "frame %llu of the archive is damaged: %s",
			       (unsigned long long)i,
			       ZSTD_isError(s->raw_n) ? ZSTD_getErrorName(s->raw_n)
						      : "its size or checksum differs");
	return 0;
}

static void *
decompress_frames(void *ctx)
{
	struct frames_reader *r = ctx;
	struct err why;
	uint64_t i;

	ZSTD_DCtx *zstd = ZSTD_createDCtx();
	if (!zstd) {
		err_set(&why, ERR_UNAVAILABLE, "no memory to decompress");
		fail(r, &why);
		return NULL;
	}
	while (take_frame(r, &i)) {
		if (load_frame(r, zstd, i, &why) < 0) {
			fail(r, &why);
			break;
		}
		pthread_mutex_lock(&r->lock);
		r->slots[i % r->n_slots].ready = true;
		pthread_cond_broadcast(&r->is_ready);
		pthread_mutex_unlock(&r->lock);
	}
	ZSTD_freeDCtx(zstd);
	return NULL;
}

/* ---- both users of a frame ---- */

/* Waits for frame i. 1: it is there, 0: stopped, -1: failed. */
static int
wait_ready(struct frames_reader *r, uint64_t i, struct err *err)
{
	struct slot *s = &r->slots[i % r->n_slots];

	pthread_mutex_lock(&r->lock);
	while (!r->stop && !r->failed && !(r->taken > i && s->ready))
		pthread_cond_wait(&r->is_ready, &r->lock);
	const int result = r->failed ? -1 : r->stop ? 0 : 1;
	if (result < 0)
		*err = r->why;
	pthread_mutex_unlock(&r->lock);
	return result;
}

static void
let_go(struct frames_reader *r, uint64_t i)
{
	pthread_mutex_lock(&r->lock);
	if (--r->slots[i % r->n_slots].users == 0)
		pthread_cond_broadcast(&r->is_free); /* each waits for a slot of its own */
	pthread_mutex_unlock(&r->lock);
}

static void
hash_frame(struct frames_reader *r, const struct slot *s)
{
	hasher_add(r->hash_file, s->bytes, s->n);
	if (r->whole)
		hasher_add(r->hash_stream, s->raw, s->raw_n);
}

static void *
hash_frames(void *ctx)
{
	struct frames_reader *r = ctx;
	struct err ignored; /* it is in r->why already */

	for (uint64_t i = 0; i < r->table.n; i++) {
		if (wait_ready(r, i, &ignored) <= 0)
			return NULL;
		hash_frame(r, &r->slots[i % r->n_slots]);
		pthread_mutex_lock(&r->lock);
		r->hashed++;
		pthread_mutex_unlock(&r->lock);
		let_go(r, i);
	}
	return NULL;
}

/* ---- the owner ---- */

static int
start_threads(struct frames_reader *r, unsigned decompressors, struct err *err)
{
	pthread_attr_t attr;
	int why = pthread_attr_init(&attr);

	if (why == 0)
		why = pthread_attr_setstacksize(&attr, STACK_BYTES);
	for (unsigned i = 0; why == 0 && i < decompressors + 1; i++) {
		why = pthread_create(&r->threads[i], &attr, i ? decompress_frames : hash_frames, r);
		if (why == 0)
			r->n_threads++;
	}
	pthread_attr_destroy(&attr);
	return why ? err_sys(err, why, "start a thread") : 0;
}

/* As many as are of use, and no larger than this archive's frames are. */
static int
make_slots(struct frames_reader *r, unsigned threads, struct err *err)
{
	size_t raw_bytes = 1, bytes = 1;

	for (size_t i = 0; i < r->table.n; i++) {
		if (r->table.at[i].raw_bytes > raw_bytes)
			raw_bytes = r->table.at[i].raw_bytes;
		if (r->table.at[i].bytes > bytes)
			bytes = r->table.at[i].bytes;
	}
	r->n_slots = threads + SLOTS_MORE;
	if (r->n_slots > r->table.n)
		r->n_slots = r->table.n;
	r->slots = xnew(r->n_slots + 1, sizeof *r->slots);
	for (size_t i = 0; i < r->n_slots; i++) {
		r->slots[i].raw = malloc(raw_bytes);
		r->slots[i].bytes = malloc(bytes);
		if (!r->slots[i].raw || !r->slots[i].bytes)
			return err_set(err, ERR_UNAVAILABLE, "no memory to decompress");
	}
	return 0;
}

static struct frames_reader *
open_reader(int fd, unsigned threads, uint64_t raw_max, bool whole, struct err *err)
{
	assert(threads >= 1 && threads <= FRAMES_THREADS_MAX);
	auto_of(frames_reader) struct frames_reader *r = xnew(1, sizeof *r);

	r->fd = fd;
	r->whole = whole;
	r->hash_file = hasher_new();
	r->hash_stream = hasher_new();
	pthread_mutex_init(&r->lock, NULL);
	pthread_cond_init(&r->is_free, NULL);
	pthread_cond_init(&r->is_ready, NULL);
	if (frames_table_load(fd, raw_max, &r->table, &r->table_bytes, err) < 0)
		return NULL;
	if (make_slots(r, threads, err) < 0)
		return NULL;
	const unsigned useful = threads < r->table.n ? threads : (unsigned)r->table.n;
	if (r->table.n > 1 && start_threads(r, useful, err) < 0)
		return NULL;
	return steal(&r);
}

struct frames_reader *
frames_reader_new(int fd, unsigned threads, uint64_t raw_max, struct err *err)
{
	return open_reader(fd, threads, raw_max, true, err);
}

struct frames_reader *
frames_reader_by_digest(int fd, unsigned threads, uint64_t raw_max, struct err *err)
{
	return open_reader(fd, threads, raw_max, false, err);
}

static void
join_threads(struct frames_reader *r)
{
	for (unsigned i = 0; i < r->n_threads; i++)
		pthread_join(r->threads[i], NULL);
	r->n_threads = 0;
}

void
frames_reader_free(struct frames_reader *r)
{
	if (!r)
		return;
	pthread_mutex_lock(&r->lock);
	r->stop = true;
	wake_all(r);
	pthread_mutex_unlock(&r->lock);
	join_threads(r);
	for (size_t i = 0; i < r->n_slots; i++) {
		free(r->slots[i].raw);
		free(r->slots[i].bytes);
	}
	free(r->slots);
	frames_table_done(&r->table);
	buf_free(&r->table_bytes);
	hasher_free(r->hash_file);
	hasher_free(r->hash_stream);
	pthread_cond_destroy(&r->is_free);
	pthread_cond_destroy(&r->is_ready);
	pthread_mutex_destroy(&r->lock);
	free(r);
}

/* What the threads would do, of the only frame. */
static int
load_alone(struct frames_reader *r, struct err *err)
{
	ZSTD_DCtx *zstd = ZSTD_createDCtx();

	if (!zstd)
		return err_set(err, ERR_UNAVAILABLE, "no memory to decompress");
	const int result = load_frame(r, zstd, 0, err);
	ZSTD_freeDCtx(zstd);
	if (result < 0)
		return -1;
	hash_frame(r, &r->slots[0]);
	r->taken = r->hashed = 1;
	r->slots[0].users = 1;
	r->slots[0].ready = true;
	return 0;
}

int
frames_next(struct frames_reader *r, struct str *out, struct err *err)
{
	if (r->holding) {
		r->holding = false;
		let_go(r, r->next - 1);
	}
	if (r->next == r->table.n)
		return 0;
	if (r->table.n == 1 && load_alone(r, err) < 0)
		return -1;
	if (wait_ready(r, r->next, err) < 0)
		return -1;
	const struct slot *s = &r->slots[r->next++ % r->n_slots];
	r->holding = true;
	*out = (struct str){s->raw, s->raw_n};
	return 1;
}

int
frames_reader_sum(struct frames_reader *r, struct frames_sum *out, struct err *err)
{
	assert(r->next == r->table.n);
	join_threads(r);
	if (r->failed || r->hashed != r->table.n) {
		*err = r->why;
		return -1;
	}
	hasher_add(r->hash_file, r->table_bytes.at, r->table_bytes.len);
	*out = (struct frames_sum){
	    .digest = hasher_sum(r->hash_file),
	    .diff_id = r->whole ? hasher_sum(r->hash_stream) : (struct digest){{0}},
	    .bytes = r->table.bytes + r->table_bytes.len,
	    .raw_bytes = r->table.raw_bytes,
	};
	return 0;
}

uint64_t
frames_raw_bytes(const struct frames_reader *r)
{
	return r->table.raw_bytes;
}
