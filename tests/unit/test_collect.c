#include "snapshot/collect.c"

#include "tree_room.h"
#include "layer_out.h"
#include "oci.h"

static struct collect_list list;

static const struct collect_item *
look(enum collect_kind kind, const struct digest *d)
{
	const struct layer_options o = {.store = room.store, .cache = room.cache};
	struct err err;

	collect_done(&list);
	must(collect_read(&o, &list, &err), &err);
	for (size_t i = 0; i < list.n; i++)
		if (list.at[i].kind == kind && (!d || digest_equal(&list.at[i].digest, d)))
			return &list.at[i];
	return NULL;
}

static struct digest
capture_once(const char *text)
{
	const struct layer_options o = {.store = room.store, .cache = room.cache};
	struct frames_sum sum;
	struct layer_counts n;
	struct err err;

	must(blob_store_init(room.store, &err), &err);
	put_text(room.upper, "file", text);
	auto_of(capture) struct capture *c = capture_new(&o, room.upper, room.scratch, &err);
	assert_non_null(c);
	must(capture_run(c, true, &sum, &n, &err), &err);
	return sum.digest;
}

static bool
has(const char *form, const struct digest *d)
{
	char name[100];
	snprintf(name, sizeof name, form, digest_text(d).text);
	return path_exists(room.store, name);
}

static void
test_a_layer_and_its_index_go_together(void **state)
{
	struct err err;
	uint64_t bytes = 0;
	const struct digest d = capture_once("x");

	(void)state;
	const struct collect_item *i = look(COLLECT_BLOB, &d);
	assert_non_null(i);
	assert_true(i->bytes > 8192); /* with its index */
	assert_null(look(COLLECT_IDX, &d));
	const struct collect_item item = *look(COLLECT_BLOB, &d);
	assert_int_equal(collect_remove(room.store, &item, &bytes, &err), 1);
	assert_int_equal(bytes, item.bytes);
	assert_false(has("blobs/sha256/%s", &d));
	assert_false(has("idx/%s.idx", &d));
	assert_int_equal(collect_remove(room.store, &item, &bytes, &err), 0);
	assert_no_temp(room.store);
	collect_done(&list);
}

static void
test_what_was_kept_since_it_was_listed_stays(void **state)
{
	struct err err;
	struct digest d, again;
	uint64_t bytes = 0;

	(void)state;
	must(blob_store_init(room.store, &err), &err);
	must(blob_put(room.store, STR_LIT("bytes"), &d, &err), &err);
	struct collect_item item = *look(COLLECT_BLOB, &d);
	const struct timespec old[] = {{.tv_sec = 100}, {.tv_sec = 100}};
	char name[100];
	snprintf(name, sizeof name, "blobs/sha256/%s", digest_text(&d).text);
	ok(utimensat(room.store, name, old, 0));
	item = *look(COLLECT_BLOB, &d);
	assert_int_equal(item.mtime_ns, 100 * NS_PER_S);
	must(blob_put(room.store, STR_LIT("bytes"), &again, &err), &err);
	assert_int_equal(collect_remove(room.store, &item, &bytes, &err), 0);
	assert_true(has("blobs/sha256/%s", &d));
	/* gone first: it is written anew */
	item = *look(COLLECT_BLOB, &d);
	assert_int_equal(collect_remove(room.store, &item, &bytes, &err), 1);
	must(blob_put(room.store, STR_LIT("bytes"), &again, &err), &err);
	assert_true(has("blobs/sha256/%s", &d));
	collect_done(&list);
}

/* What the lock is for: a removal does not fall between a commit's look and its decision to keep.
 */
static void
test_who_looks_and_who_removes_exclude_each_other(void **state)
{
	struct err err;

	(void)state;
	must(blob_store_init(room.store, &err), &err);
	auto_close int one = blob_hold(room.store, false, &err);
	auto_close int two = blob_hold(room.store, false, &err);
	assert_true(one >= 0 && two >= 0);
	auto_close int fd = openat(room.store, "lock", O_RDWR | O_CLOEXEC);
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	assert_int_equal(fcntl(fd, F_OFD_SETLK, &lock), -1);
	assert_int_equal(errno, EAGAIN);
	fd_close(&one);
	fd_close(&two);
	auto_close int alone = blob_hold(room.store, true, &err);
	assert_true(alone >= 0);
	lock.l_type = F_RDLCK;
	assert_int_equal(fcntl(fd, F_OFD_SETLK, &lock), -1);
}

/* The storm of it: one process commits the same blob again and again and looks whether it is there,
 * another lists and removes it as fast as it can. */
static void
test_a_commit_that_succeeded_is_never_undone(void **state)
{
	const struct digest d = digest_of(STR_LIT("bytes"));
	uint64_t bytes = 0;
	struct err err;
	int status, removed = 0;

	(void)state;
	must(blob_store_init(room.store, &err), &err);
	const pid_t pid = fork();
	ok(pid);
	if (pid == 0) {
		struct digest made;
		for (int n = 0; n < 1500; n++) {
			/* a snapshot would be committed now: until the next listing it must be
			 * there */
			auto_close int hold = blob_hold(room.store, false, &err);
			if (hold < 0 || blob_put(room.store, STR_LIT("bytes"), &made, &err) < 0 ||
			    !has("blobs/sha256/%s", &made))
				_exit(1);
		}
		_exit(0);
	}
	while (waitpid(pid, &status, WNOHANG) == 0) {
		const struct collect_item *i = look(COLLECT_BLOB, &d);
		if (!i)
			continue;
		const int gone = collect_remove(room.store, i, &bytes, &err);
		must(gone, &err);
		removed += gone;
	}
	assert_int_equal(status, 0);
	assert_true(removed > 0);
	collect_done(&list);
}

static void
test_refs_tell_their_configs_and_sessions_their_end(void **state)
{
	struct err err;
	struct digest manifest;
	uint64_t bytes = 0;
	const struct digest layer = capture_once("y"), id = digest_of(STR_LIT("z"));
	const uint64_t size = 9;
	const struct oci_snapshot s = {.session = STR_LIT("s_aaaaaaaaaaaaaaaa"),
				       .session_name = STR_LIT("demo"),
				       .image = STR_LIT("host"),
				       .made_by = STR_LIT("pause"),
				       .fingerprint = STR_LIT("f"),
				       .layers = &layer,
				       .diff_ids = &id,
				       .sizes = &size,
				       .n_layers = 1,
				       .created_ns = 5};

	(void)state;
	must(oci_write_snapshot(room.store, &s, &manifest, &err), &err);
	must(oci_write_session(room.store, STR_LIT("s_aaaaaaaaaaaaaaaa"),
			       STR_LIT("{\"deleted\":true}"), &err),
	     &err);
	const struct collect_item ref = *look(COLLECT_REF, &manifest);
	assert_true(ref.has_of);
	assert_non_null(look(COLLECT_BLOB, &ref.of));
	/* what a removal leaves alone, though the list had no ref of it yet */
	const struct layer_options o = {.store = room.store, .cache = room.cache};
	struct digest *named = NULL;
	size_t n_named = 0;
	must(collect_named(&o, &named, &n_named, &err), &err);
	assert_true(collect_is_named(named, n_named, &ref.of));
	assert_true(collect_is_named(named, n_named, &manifest));
	assert_false(collect_is_named(named, n_named, &layer));
	free(named);
	const struct collect_item *of_session = look(COLLECT_SESSION, NULL);
	assert_non_null(of_session);
	assert_true(of_session->has_of);
	assert_string_equal((const char *)of_session->digest.at, "s_aaaaaaaaaaaaaaaa");
	assert_int_equal(collect_remove(room.store, &ref, &bytes, &err), 1);
	assert_null(look(COLLECT_REF, &manifest));
	must(collect_remove_session(room.store, STR_LIT("s_aaaaaaaaaaaaaaaa"), &err), &err);
	assert_null(look(COLLECT_SESSION, NULL));
	assert_int_equal(collect_remove_session(room.store, STR_LIT("../../x"), &err), -1);
	/* without its ref, the manifest tells */
	put_text(room.store, "refs/x", "x");
	collect_done(&list);
}

static void
test_an_index_that_got_its_layer_back_stays(void **state)
{
	struct err err;
	uint64_t bytes = 0;
	char name[100];
	const struct digest d = capture_once("w");

	(void)state;
	snprintf(name, sizeof name, "blobs/sha256/%s", digest_text(&d).text);
	ok(unlinkat(room.store, name, 0));
	struct collect_item item = *look(COLLECT_IDX, &d);
	put_text(room.store, name, "the layer");
	assert_int_equal(collect_remove(room.store, &item, &bytes, &err), 0);
	ok(unlinkat(room.store, name, 0));
	item = *look(COLLECT_IDX, &d);
	assert_int_equal(collect_remove(room.store, &item, &bytes, &err), 1);
	assert_false(has("idx/%s.idx", &d));
	collect_done(&list);
}

static void
test_what_was_put_aside_goes(void **state)
{
	const struct layer_options o = {.store = room.store, .cache = room.cache};
	struct err err;
	uint64_t bytes = 0;

	(void)state;
	ok(mkdirat(room.scratch, "gone.s_x.1", 0700));
	put_text(room.scratch, "gone.s_x.1/f", "text");
	put_text(room.scratch, "stays", "text");
	must(collect_clear(&o, room.scratch, &bytes, &err), &err);
	assert_false(path_exists(room.scratch, "gone.s_x.1"));
	assert_true(path_exists(room.scratch, "stays"));
	assert_true(bytes >= 4096);
}

int
main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, room_open, room_close)
	const struct CMUnitTest tests[] = {
	    T(test_a_layer_and_its_index_go_together),
	    T(test_what_was_kept_since_it_was_listed_stays),
	    T(test_who_looks_and_who_removes_exclude_each_other),
	    T(test_a_commit_that_succeeded_is_never_undone),
	    T(test_refs_tell_their_configs_and_sessions_their_end),
	    T(test_an_index_that_got_its_layer_back_stays),
	    T(test_what_was_put_aside_goes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
