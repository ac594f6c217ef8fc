/* Writing frames: the owner fills, the compressors compress, one writer hashes and writes.
 *
 *   owner ──FILLED──▶ compressor (n) ──DONE──▶ writer (1) ──FREE──▶ owner
 *
 * All share one ring of slots under one lock; slot i holds frames i, i + slots, i + 2 * slots, …,
 * so order needs no bookkeeping. A thread that fails leaves the first error and wakes all; from
 * then on everybody only looks for the way out. */
#include "frames.h"
#include "base/fd.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <zstd.h>

enum { SLOTS_MORE = 4, STACK_BYTES = 256 * 1024, SEND_OFF_BYTES = 8 << 20 };

enum slot_state { SLOT_FREE, SLOT_FILLED, SLOT_BUSY, SLOT_DONE };

struct slot {
	enum slot_state state;
	char *raw;   /* owned; FRAME_BYTES */
	char *bytes; /* owned; ZSTD_compressBound of it */
	size_t raw_n, n;
};

struct frames_writer {
	int fd; /* lent */
	int level;
	size_t bound;
	struct slot *slots; /* owned */
	size_t n_slots;
	pthread_t threads[FRAMES_THREADS_MAX + 1];
	unsigned n_threads; /* that run */

	pthread_mutex_t lock; /* guards all below, and the states of the slots */
	/* One for each who waits: the owner, the compressors, the writer. Waking all at each frame
	 * was 23 system calls a frame. */
	pthread_cond_t is_free, is_filled, is_done;
	uint64_t filled, taken, written; /* frames handed over, taken by a compressor, written */
	bool no_more, stop, failed;
	struct err why;

	struct frames_table table;              /* the writer thread's until it has ended */
	uint64_t sent_off;                      /* likewise; bytes of the file */
	struct hasher *hash_file, *hash_stream; /* owned; likewise */
};

/* With the lock. */
static void
wake_all(struct frames_writer *w)
{
	pthread_cond_broadcast(&w->is_free);
	pthread_cond_broadcast(&w->is_filled);
	pthread_cond_broadcast(&w->is_done);
}

static void
fail(struct frames_writer *w, const struct err *why)
{
	pthread_mutex_lock(&w->lock);
	if (!w->failed) {
		w->failed = true;
		w->why = *why;
	}
	wake_all(w);
	pthread_mutex_unlock(&w->lock);
}

/* who: waits for just that; one of them is enough. */
static void
slot_becomes(struct frames_writer *w, struct slot *s, enum slot_state state, pthread_cond_t *who)
{
	pthread_mutex_lock(&w->lock);
	s->state = state;
	pthread_cond_signal(who);
	pthread_mutex_unlock(&w->lock);
}

/* ---- compressors ---- */

/* The next frame to compress; NULL: there will be none. */
static struct slot *
take_filled(struct frames_writer *w)
{
	struct slot *s = NULL;

	pthread_mutex_lock(&w->lock);
	while (!w->stop && !w->failed && w->taken == w->filled && !w->no_more)
		pthread_cond_wait(&w->is_filled, &w->lock);
	if (!w->stop && !w->failed && w->taken < w->filled) {
		s = &w->slots[w->taken++ % w->n_slots];
		s->state = SLOT_BUSY;
	}
	pthread_mutex_unlock(&w->lock);
	return s;
}

static void *
compress_frames(void *ctx)
{
	struct frames_writer *w = ctx;
	struct err why;
	struct slot *s;

	ZSTD_CCtx *zstd = ZSTD_createCCtx();
	if (!zstd) {
		err_set(&why, ERR_UNAVAILABLE, "no memory to compress");
		fail(w, &why);
		return NULL;
	}
	/* The frame's own checksum is what the seek table wants beside it: XXH64's low half. */
	ZSTD_CCtx_setParameter(zstd, ZSTD_c_compressionLevel, w->level);
	ZSTD_CCtx_setParameter(zstd, ZSTD_c_checksumFlag, 1);
	while ((s = take_filled(w)) != NULL) {
		s->n = ZSTD_compress2(zstd, s->bytes, w->bound, s->raw, s->raw_n);
		if (ZSTD_isError(s->n)) {
			err_set(&why, ERR_INTERNAL, "compress: %s", ZSTD_getErrorName(s->n));
			fail(w, &why);
			break;
		}
		slot_becomes(w, s, SLOT_DONE, &w->is_done);
	}
	ZSTD_freeCCtx(zstd);
	return NULL;
}

/* ---- the writer ---- */

/* The next frame in order, when it is compressed; NULL: that was the last. */
static struct slot *
next_done(struct frames_writer *w)
{
	struct slot *s = NULL;

	pthread_mutex_lock(&w->lock);
	for (;;) {
		struct slot *next = &w->slots[w->written % w->n_slots];
		if (w->stop || w->failed || (w->no_more && w->written == w->filled))
			break;
		if (next->state == SLOT_DONE) {
			s = next;
			w->written++;
			break;
		}
		pthread_cond_wait(&w->is_done, &w->lock);
	}
	pthread_mutex_unlock(&w->lock);
	return s;
}

static uint32_t
checksum_of(const struct slot *s)
{
	const uint8_t *p = (const uint8_t *)s->bytes + s->n - 4;
	return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* Begins to bring to the disk what a sync would otherwise have to wait for at the end, all at once.
 * Its failure is no failure: the sync will say it. */
static void
send_off(struct frames_writer *w)
{
	const uint64_t n = w->table.bytes - w->sent_off;

	if (n < SEND_OFF_BYTES)
		return;
	sync_file_range(w->fd, (off_t)w->sent_off, (off_t)n, SYNC_FILE_RANGE_WRITE);
	w->sent_off += n;
}

static void *
write_frames(void *ctx)
{
	struct frames_writer *w = ctx;
	struct err why;
	struct slot *s;

	while ((s = next_done(w)) != NULL) {
		hasher_add(w->hash_stream, s->raw, s->raw_n);
		hasher_add(w->hash_file, s->bytes, s->n);
		if (fd_write_all(w->fd, s->bytes, s->n, &why) < 0 ||
		    frames_table_add(&w->table, (uint32_t)s->n, (uint32_t)s->raw_n, checksum_of(s),
				     &why) < 0) {
			fail(w, &why);
			return NULL;
		}
		send_off(w);
		slot_becomes(w, s, SLOT_FREE, &w->is_free);
	}
	return NULL;
}

/* ---- the owner ---- */

static int
start_threads(struct frames_writer *w, unsigned compressors, struct err *err)
{
	pthread_attr_t attr;
	int why = pthread_attr_init(&attr);

	if (why == 0)
		why = pthread_attr_setstacksize(&attr, STACK_BYTES);
	for (unsigned i = 0; why == 0 && i < compressors + 1; i++) {
		why = pthread_create(&w->threads[i], &attr, i ? compress_frames : write_frames, w);
		if (why == 0)
			w->n_threads++;
	}
	pthread_attr_destroy(&attr);
	return why ? err_sys(err, why, "start a thread") : 0;
}

struct frames_writer *
frames_writer_new(int fd, int level, unsigned threads, struct err *err)
{
	assert(threads >= 1 && threads <= FRAMES_THREADS_MAX);
	auto_of(frames_writer) struct frames_writer *w = xnew(1, sizeof *w);

	w->fd = fd;
	w->level = level;
	w->bound = ZSTD_compressBound(FRAME_BYTES);
	w->n_slots = threads > 3 ? threads + SLOTS_MORE : 4 * threads;
	w->slots = xnew(w->n_slots, sizeof *w->slots);
	w->hash_file = hasher_new();
	w->hash_stream = hasher_new();
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->is_free, NULL);
	pthread_cond_init(&w->is_filled, NULL);
	pthread_cond_init(&w->is_done, NULL);
	for (size_t i = 0; i < w->n_slots; i++) {
		w->slots[i].raw = malloc(FRAME_BYTES);
		w->slots[i].bytes = malloc(w->bound);
		if (!w->slots[i].raw || !w->slots[i].bytes) {
			err_set(err, ERR_UNAVAILABLE, "no memory to compress");
			return NULL;
		}
	}
	if (start_threads(w, threads, err) < 0)
		return NULL;
	return steal(&w);
}

static void
join_threads(struct frames_writer *w)
{
	for (unsigned i = 0; i < w->n_threads; i++)
		pthread_join(w->threads[i], NULL);
	w->n_threads = 0;
}

void
frames_writer_free(struct frames_writer *w)
{
	if (!w)
		return;
	pthread_mutex_lock(&w->lock);
	w->stop = true;
	wake_all(w);
	pthread_mutex_unlock(&w->lock);
	join_threads(w);
	for (size_t i = 0; i < w->n_slots; i++) {
		free(w->slots[i].raw);
		free(w->slots[i].bytes);
	}
	free(w->slots);
	frames_table_done(&w->table);
	hasher_free(w->hash_file);
	hasher_free(w->hash_stream);
	pthread_cond_destroy(&w->is_free);
	pthread_cond_destroy(&w->is_filled);
	pthread_cond_destroy(&w->is_done);
	pthread_mutex_destroy(&w->lock);
	free(w);
}

static struct slot *
current_slot(struct frames_writer *w)
{
	return &w->slots[w->filled % w->n_slots]; /* only the owner moves `filled` */
}

char *
frames_room(struct frames_writer *w, size_t *n, struct err *err)
{
	struct slot *s = current_slot(w);

	assert(!w->no_more);
	if (s->raw_n == 0 || s->raw_n == FRAME_BYTES) { /* else it is half filled, and ours */
		pthread_mutex_lock(&w->lock);
		while (!w->failed && s->state != SLOT_FREE)
			pthread_cond_wait(&w->is_free, &w->lock);
		const bool failed = w->failed;
		if (failed)
			*err = w->why;
		pthread_mutex_unlock(&w->lock);
		if (failed)
			return NULL;
		s->raw_n = 0;
	}
	*n = FRAME_BYTES - s->raw_n;
	return s->raw + s->raw_n;
}

static void
hand_over(struct frames_writer *w, struct slot *s)
{
	pthread_mutex_lock(&w->lock);
	s->state = SLOT_FILLED;
	w->filled++;
	pthread_cond_signal(&w->is_filled);
	pthread_mutex_unlock(&w->lock);
}

void
frames_filled(struct frames_writer *w, size_t n)
{
	struct slot *s = current_slot(w);

	s->raw_n += n;
	assert(s->raw_n <= FRAME_BYTES);
	if (s->raw_n == FRAME_BYTES)
		hand_over(w, s);
}

int
frames_add(struct frames_writer *w, const void *bytes, size_t n, struct err *err)
{
	const char *from = bytes;

	while (n) {
		size_t room;
		char *at = frames_room(w, &room, err);
		if (!at)
			return -1;
		const size_t k = n < room ? n : room;
		memcpy(at, from, k);
		frames_filled(w, k);
		from += k;
		n -= k;
	}
	return 0;
}

int
frames_finish(struct frames_writer *w, struct frames_sum *out, struct err *err)
{
	size_t room;

	if (!frames_room(w, &room, err)) /* waits for the slot, so that it can be judged */
		return -1;
	if (current_slot(w)->raw_n)
		hand_over(w, current_slot(w));
	pthread_mutex_lock(&w->lock);
	w->no_more = true;
	wake_all(w);
	pthread_mutex_unlock(&w->lock);
	join_threads(w);
	if (w->failed) {
		*err = w->why;
		return -1;
	}

	auto_buf table = BUF_MAX((size_t)64 << 20);
	if (frames_table_encode(&w->table, &table, err) < 0 ||
	    fd_write_all(w->fd, table.at, table.len, err) < 0)
		return -1;
	hasher_add(w->hash_file, table.at, table.len);
	*out = (struct frames_sum){
	    .digest = hasher_sum(w->hash_file),
	    .diff_id = hasher_sum(w->hash_stream),
	    .bytes = w->table.bytes + table.len,
	    .raw_bytes = w->table.raw_bytes,
	};
	return 0;
}
