/* unpack_all.c: many directories at once; numbers are its invariants. */
#include "snapshot/unpack_all.c"
#include "snapshot/blob.h"
#include "snapshot/cache.h"
#include "snapshot/dirs.h"

#include "tree_room.h"

enum { LAYERS = 12 };

static struct digest layers[LAYERS];
static struct layer_counts sizes[LAYERS];

/* A chain: each with many small files, and one of several frames. */
static void
make_layers(void)
{
	const struct layer_options o = room_options(2);
	static char noise[3 << 20];
	struct frames_sum sum;
	struct err err;

	for (size_t i = 0; i < sizeof noise; i++)
		noise[i] = (char)(i * 2654435761u >> 13);
	auto_of(capture) struct capture *c = capture_new(&o, room.upper, room.scratch, &err);
	assert_non_null(c);
	for (int i = 0; i < LAYERS; i++) {
		char name[32];
		for (int k = 0; k < 100; k++) {
			snprintf(name, sizeof name, "small-%d-%d", i, k);
			put_file(room.upper, name, name, strlen(name));
		}
		snprintf(name, sizeof name, "large-%d", i);
		put_file(room.upper, name, noise, i % 3 ? 1000 : sizeof noise - (size_t)i);
		assert_int_equal(capture_run(c, 0, &sum, &sizes[i], &err), 1);
		layers[i] = sum.digest;
	}
}

struct told {
	pthread_mutex_t lock; /* tried, never waited for: whoever calls is alone */
	struct digest ready[LAYERS + 1];
	size_t n;
	size_t fail_after; /* so many directories, 0: never */
	uint64_t stop_at;  /* entries, 0: never */
	uint64_t bytes, entries;
};

static int
on_step(void *ctx, uint64_t bytes, uint64_t entries, struct err *err)
{
	struct told *t = ctx;

	assert_int_equal(pthread_mutex_trylock(&t->lock), 0);    /* invariant 1 */
	assert_true(bytes >= t->bytes && entries >= t->entries); /* 2 */
	t->bytes = bytes;
	t->entries = entries;
	pthread_mutex_unlock(&t->lock);
	return t->stop_at && entries >= t->stop_at ? err_set(err, ERR_CANCELLED, "enough") : 0;
}

static int
on_ready(void *ctx, const struct digest *made, struct err *err)
{
	struct told *t = ctx;

	assert_int_equal(pthread_mutex_trylock(&t->lock), 0);
	assert_true(cache_layer_trusted(room.cache, made));
	assert_true(t->n < LAYERS + 1);
	t->ready[t->n++] = *made;
	pthread_mutex_unlock(&t->lock);
	return t->n == t->fail_after ? err_set(err, ERR_CANCELLED, "nobody listens") : 0;
}

static int
unpack_them(unsigned threads, struct told *t, bool flat, struct err *err)
{
	struct layer_options o = room_options(threads);
	struct layer_counts n;
	const struct layer_wanted wanted = {.layers = layers,
					    .n = LAYERS,
					    .flat = layers,
					    .n_flat = flat ? LAYERS : 0,
					    .into = digest_of(STR_LIT("into"))};

	pthread_mutex_init(&t->lock, NULL);
	o.watch = (struct layer_watch){.step = on_step, .ctx = t};
	return unpack_all(&o, &wanted, on_ready, t, &n, err);
}

static size_t
count_trusted(void)
{
	size_t n = 0;

	for (size_t i = 0; i < LAYERS; i++)
		n += cache_layer_trusted(room.cache, &layers[i]);
	return n;
}

/* What was told of is there, nothing else is, and nothing half. */
static void
assert_as_told(const struct told *t)
{
	const struct digest into = digest_of(STR_LIT("into"));

	assert_int_equal(count_trusted() + cache_layer_trusted(room.cache, &into), t->n);
	assert_no_temp(room.cache);
}

static void
drop_cache(void)
{
	struct err err;
	auto_close int dir = path_open(room.cache, "layers", O_RDONLY | O_DIRECTORY, &err);
	DIR *list = fdopendir(dup(dir));
	const struct dirent *e;

	while ((e = readdir(list)) != NULL)
		if (e->d_name[0] != '.')
			must(dirs_remove_tree(dir, e->d_name, &err), &err);
	closedir(list);
}

static void
test_all_are_made_each_is_told_of_once_and_progress_is_of_all(void **state)
{
	(void)state;
	make_layers();
	for (unsigned threads = 1; threads <= 6; threads += 2) {
		struct told t = {.n = 0};
		uint64_t entries = 0;
		struct err err;
		must(unpack_them(threads, &t, true, &err), &err);
		assert_int_equal(t.n, LAYERS + 1);
		assert_as_told(&t);
		for (size_t i = 0; i < LAYERS; i++)
			entries += sizes[i].entries;
		assert_int_equal(t.entries, 2 * entries);
		const struct digest into = digest_of(STR_LIT("into"));
		const int flat = open_layer(&into);
		assert_same_tree(room.upper, flat, false);
		close(flat);
		/* what is there is left as it is, and told of */
		struct told again = {.n = 0};
		must(unpack_them(threads, &again, true, &err), &err);
		assert_int_equal(again.n, LAYERS + 1);
		drop_cache();
	}
}

static void
test_a_damaged_layer_is_named_and_ends_it(void **state)
{
	char name[96];

	(void)state;
	make_layers();
	for (size_t bad = 0; bad < LAYERS; bad += 3) {
		struct told t = {.n = 0};
		struct err err;
		char byte;
		snprintf(name, sizeof name, "blobs/sha256/%s", digest_text(&layers[bad]).text);
		auto_close int fd = openat(room.store, name, O_RDWR | O_CLOEXEC);
		ok(fd);
		must(fd_pread_all(fd, &byte, 1, 40, &err), &err);
		byte ^= 1;
		must(fd_pwrite_all(fd, &byte, 1, 40, &err), &err);
		assert_int_equal(unpack_them(2, &t, false, &err), -1);
		assert_int_equal(err.code, ERR_CORRUPT);
		snprintf(name, sizeof name, "%.12s", digest_text(&layers[bad]).text);
		assert_non_null(strstr(err.why, name)); /* 3: not that another was given up */
		assert_as_told(&t);
		assert_false(cache_layer_trusted(room.cache, &layers[bad]));
		byte ^= 1;
		must(fd_pwrite_all(fd, &byte, 1, 40, &err), &err);
		drop_cache();
	}
}

static void
test_who_watches_ends_it_and_nothing_half_stays(void **state)
{
	(void)state;
	make_layers();
	for (uint64_t at = 1; at < 1200; at += 150) {
		struct told t = {.stop_at = at};
		struct err err;
		assert_int_equal(unpack_them(3, &t, true, &err), -1);
		assert_string_equal(err.why + strlen(err.why) - 6, "enough");
		assert_as_told(&t);
		drop_cache();
	}
	for (size_t n = 1; n <= 3; n++) {
		struct told t = {.fail_after = n};
		struct err err;
		assert_int_equal(unpack_them(3, &t, true, &err), -1);
		assert_string_equal(err.why, "nobody listens");
		assert_no_temp(room.cache);
		drop_cache();
	}
}

int
main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, room_open, room_close)
	const struct CMUnitTest tests[] = {
	    T(test_all_are_made_each_is_told_of_once_and_progress_is_of_all),
	    T(test_a_damaged_layer_is_named_and_ends_it),
	    T(test_who_watches_ends_it_and_nothing_half_stays),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
