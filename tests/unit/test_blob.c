#include "snapshot/blob.c"

#include "tree_room.h"

static void
test_a_blob_is_there_whole_or_not_at_all(void **state)
{
	struct err err;
	struct digest d;
	uint64_t bytes;

	(void)state;
	must(blob_store_init(room.store, &err), &err);
	must(blob_store_init(room.store, &err), &err);
	assert_true(path_exists(room.store, "oci-layout"));
	must(blob_put(room.store, STR_LIT("bytes"), &d, &err), &err);
	const int fd = blob_open(room.store, &d, &bytes, &err);
	must(fd, &err);
	assert_int_equal(bytes, 5);
	close(fd);
	struct blob_writer w;
	must(blob_begin(room.store, &w, &err), &err);
	must(fd_write_all(w.fd, "x", 1, &err), &err);
	blob_abort(&w);
	blob_abort(&w);
	assert_no_temp(room.store);
	const struct digest other = digest_of(STR_LIT("other"));
	assert_int_equal(blob_open(room.store, &other, &bytes, &err), -1);
	assert_int_equal(err.code, ERR_CORRUPT);
}

static void
test_one_that_is_there_is_kept_and_a_cut_one_replaced(void **state)
{
	struct stat before, after;
	struct err err;
	struct digest d;
	char name[100];

	(void)state;
	must(blob_store_init(room.store, &err), &err);
	must(blob_put(room.store, STR_LIT("bytes"), &d, &err), &err);
	snprintf(name, sizeof name, "blobs/sha256/%s", digest_text(&d).text);
	ok(fstatat(room.store, name, &before, 0));
	must(blob_put(room.store, STR_LIT("bytes"), &d, &err), &err);
	ok(fstatat(room.store, name, &after, 0));
	assert_int_equal(before.st_ino, after.st_ino);
	put_text(room.store, name, "byt");
	must(blob_put(room.store, STR_LIT("bytes"), &d, &err), &err);
	auto_buf text = BUF_MAX(100);
	must(blob_read(room.store, &d, &text, &err), &err);
	assert_string_equal(buf_cstr(&text), "bytes");
	put_text(room.store, name, "BYTES");
	buf_clear(&text);
	assert_int_equal(blob_read(room.store, &d, &text, &err), -1);
	assert_int_equal(err.code, ERR_CORRUPT);
	assert_no_temp(room.store);
}

static void
test_a_sweep_takes_what_nobody_holds(void **state)
{
	struct blob_writer held;
	struct err err;

	(void)state;
	must(blob_store_init(room.store, &err), &err);
	must(blob_begin(room.store, &held, &err), &err);
	auto_close int blobs = openat(room.store, "blobs", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	put_text(blobs, ".tmp.dead", "x");
	ok(mkdirat(blobs, ".tmp.tree", 0700));
	put_text(blobs, ".tmp.tree/in", "x");
	assert_true(!is_stale(blobs, ".tmp.dead")); /* young: it may be about to be locked */
	must(blob_tmp_sweep(blobs, &err), &err);
	assert_int_equal(count_names(blobs), 4);
	/* The clock cannot be turned, so judge by the lock alone. */
	auto_close int fd = openat(blobs, held.tmp, O_RDONLY | O_CLOEXEC);
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	ok(fcntl(fd, F_OFD_GETLK, &lock));
	assert_int_equal(lock.l_type, F_RDLCK);
	auto_close int dead = openat(blobs, ".tmp.dead", O_RDONLY | O_CLOEXEC);
	lock = (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET};
	ok(fcntl(dead, F_OFD_GETLK, &lock));
	assert_int_equal(lock.l_type, F_UNLCK);
	blob_abort(&held);
}

int
main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, room_open, room_close)
	const struct CMUnitTest tests[] = {
	    T(test_a_blob_is_there_whole_or_not_at_all),
	    T(test_one_that_is_there_is_kept_and_a_cut_one_replaced),
	    T(test_a_sweep_takes_what_nobody_holds),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
