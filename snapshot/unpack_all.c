/* All that the cache lacks of a workspace at once. Each directory is made by one thread from its
 * first byte to its name; threads share the list of what is left, and take turns in telling the
 * caller.
 *
 * Invariants
 *  1. `watch` and `ready` are called by one thread at a time;
 *  2. progress is that of all, and never goes back;
 *  3. after the first failure, which is the one that is passed on, no directory is begun, and those
 *     that are being made are removed at their next step; what was told as ready stays;
 *  4. memory: UNPACK_AT_ONCE readers with one decompressor each hold 48 MiB at most (frames.h), and
 *     an archive of one frame no more than that frame. */
#include "base/fd.h"
#include "unpack.h"

#include <pthread.h>

enum { UNPACK_AT_ONCE = 4 };

struct all {
	const struct layer_options *o;     /* lent */
	const struct layer_wanted *wanted; /* lent */
	layer_ready_fn ready;
	void *ctx;

	pthread_mutex_t lock; /* guards what follows, and what the caller is told */
	size_t taken;
	bool failed;
	struct err why;
	struct layer_counts told, done;
};

struct maker { /* one thread */
	struct all *all;
	struct layer_options o;
	uint64_t bytes, entries; /* told of the directory that it makes */
};

static size_t
count(const struct layer_wanted *wanted)
{
	return wanted->n + (wanted->n_flat > 0);
}

/* With the lock. */
static int
tell(struct maker *k, uint64_t bytes, uint64_t entries, struct err *err)
{
	struct all *a = k->all;
	const struct layer_watch *watch = &a->o->watch;

	if (bytes > k->bytes) {
		a->told.raw_bytes += bytes - k->bytes;
		k->bytes = bytes;
	}
	if (entries > k->entries) {
		a->told.entries += entries - k->entries;
		k->entries = entries;
	}
	if (a->failed)
		return err_set(err, ERR_CANCELLED, "another layer cannot be unpacked");
	return watch->step ? watch->step(watch->ctx, a->told.raw_bytes, a->told.entries, err) : 0;
}

static int
step(void *ctx, uint64_t bytes, uint64_t entries, struct err *err)
{
	struct maker *k = ctx;

	pthread_mutex_lock(&k->all->lock);
	const int result = tell(k, bytes, entries, err);
	pthread_mutex_unlock(&k->all->lock);
	return result;
}

/* The flattened one first: it takes longest. Then from the lowest up: those of merged layers. */
static const struct digest *
make(struct maker *k, size_t i, struct layer_counts *out, struct err *err)
{
	const struct layer_wanted *w = k->all->wanted;

	if (w->n_flat && i == 0)
		return compact_layers(&k->o, w->flat, w->n_flat, &w->into, out, err) < 0 ? NULL
											 : &w->into;
	const struct digest *d = &w->layers[i - (w->n_flat > 0)];
	return unpack_layer(&k->o, d, NULL, out, err) < 0 ? NULL : d;
}

static int
end(struct maker *k, const struct digest *made, const struct layer_counts *n, struct err *err)
{
	struct all *a = k->all;

	a->done.bytes += n->bytes;
	a->done.raw_bytes += n->raw_bytes;
	a->done.entries += n->entries;
	a->done.files += n->files;
	if (a->ready && a->ready(a->ctx, made, err) < 0)
		return -1;
	return tell(k, n->raw_bytes, n->entries, err);
}

static void *
make_some(void *ctx)
{
	struct maker *k = ctx;
	struct all *a = k->all;
	struct layer_counts n;
	struct err err;

	pthread_mutex_lock(&a->lock);
	while (!a->failed && a->taken < count(a->wanted)) {
		const size_t i = a->taken++;
		k->bytes = k->entries = 0;
		pthread_mutex_unlock(&a->lock);
		const struct digest *made = make(k, i, &n, &err);
		pthread_mutex_lock(&a->lock);
		if ((!made || end(k, made, &n, &err) < 0) && !a->failed) {
			a->failed = true;
			a->why = err;
		}
	}
	pthread_mutex_unlock(&a->lock);
	return NULL;
}

static unsigned
makers(const struct layer_options *o, size_t n)
{
	const unsigned most =
	    unpack_threads(o) < UNPACK_AT_ONCE ? unpack_threads(o) : UNPACK_AT_ONCE;
	return n < most ? (unsigned)n : most;
}

int
unpack_all(const struct layer_options *o, const struct layer_wanted *wanted, layer_ready_fn ready,
	   void *ctx, struct layer_counts *out, struct err *err)
{
	struct all a = {.o = o, .wanted = wanted, .ready = ready, .ctx = ctx};
	const unsigned n = makers(o, count(wanted));
	struct maker all[UNPACK_AT_ONCE];
	pthread_t threads[UNPACK_AT_ONCE];
	unsigned started = 0;

	pthread_mutex_init(&a.lock, NULL);
	for (unsigned i = 0; i < n; i++) {
		all[i] = (struct maker){.all = &a, .o = *o};
		all[i].o.watch = (struct layer_watch){.step = step, .ctx = &all[i]};
		if (n > 1)
			all[i].o.threads = 1;
	}
	/* The caller's thread is one of them: what cannot be started is done without. */
	while (started + 1 < n &&
	       pthread_create(&threads[started], NULL, make_some, &all[started + 1]) == 0)
		started++;
	if (n)
		make_some(&all[0]);
	while (started)
		pthread_join(threads[--started], NULL);
	pthread_mutex_destroy(&a.lock);
	if (a.failed) {
		*err = a.why;
		return -1;
	}
	*out = a.done;
	return 0;
}
