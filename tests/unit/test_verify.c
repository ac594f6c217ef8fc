/* verify.c, and with it idx.c: the index and the archive say the same, or it is said. */
#include "snapshot/verify.c"

#include "tree_room.h"

#include <sqlite3.h>

static struct frames_sum sum;

static void
capture_upper(void)
{
	const struct layer_options o = room_options(2);
	struct layer_counts n;
	struct err err;
	struct capture *c = capture_new(&o, room.upper, room.scratch, &err);
	must(capture_run(c, false, &sum, &n, &err), &err);
	capture_free(c);
}

static void
capture(void)
{
	put_rich_tree(room.upper);
	capture_upper();
}

static int
judge(struct err *err)
{
	const struct layer_options o = room_options(2);
	struct layer_counts n;
	return verify_layer(&o, &sum.digest, &sum.diff_id, &n, err);
}

static int
open_index(int flags)
{
	char name[100];
	snprintf(name, sizeof name, "idx/%s.idx", digest_text(&sum.digest).text);
	const int fd = openat(room.store, name, flags | O_CLOEXEC);
	ok(fd);
	return fd;
}

static void
test_the_index_leads_to_the_bytes(void **state)
{
	struct err err;
	uint64_t at, size, bytes, stream_at = 0;
	struct str piece;
	char found[16] = "";

	(void)state;
	capture();
	must(judge(&err), &err);
	const int fd = open_index(O_RDONLY);
	auto_of(idx_reader) struct idx_reader *r = idx_reader_new(fd, &err);
	assert_int_equal(idx_find(r, STR_LIT("d/plain"), &at, &size, &err), 1);
	assert_int_equal(size, 10);
	uint64_t none, entries;
	struct frames_sum said;
	assert_int_equal(idx_find(r, STR_LIT("d/absent"), &none, &size, &err), 0);
	assert_int_equal(idx_find(r, STR_LIT("d"), &none, &size, &err), 0);
	must(idx_layer(r, &said, &entries, &err), &err);
	assert_memory_equal(&said, &sum, sizeof sum);
	const int blob = blob_open(room.store, &sum.digest, &bytes, &err);
	auto_of(frames_reader) struct frames_reader *f =
	    frames_reader_new(blob, 1, 1ull << 40, &err);
	while (frames_next(f, &piece, &err) > 0) {
		if (at >= stream_at && at + 10 <= stream_at + piece.len)
			memcpy(found, piece.at + (at - stream_at), 10);
		stream_at += piece.len;
	}
	assert_string_equal(found, "some text\n");
	close(blob);
	close(fd);
}

static void
test_an_index_that_lies_is_found(void **state)
{
	static const char *const lies[] = {
	    "UPDATE entry SET size=size+1 WHERE path=CAST('d/plain' AS BLOB)",
	    "UPDATE entry SET link=CAST('x' AS BLOB) WHERE path=CAST('links/three' AS BLOB)",
	    "UPDATE entry SET type='f' WHERE path=CAST('d/deleted' AS BLOB)",
	    "DELETE FROM entry WHERE path=CAST('d/old' AS BLOB)",
	    "INSERT INTO entry SELECT CAST('more' AS "
	    "BLOB),type,size,mode,uid,gid,mtime_ns,link,data_at,sparse"
	    " FROM entry WHERE path=CAST('d/old' AS BLOB)",
	    "UPDATE layer SET diff_id=digest",
	    "DELETE FROM layer",
	    "DROP TABLE entry",
	};
	struct err err;

	(void)state;
	capture();
	char command[600], name[200];
	snprintf(name, sizeof name, "%s/store/idx/%s.idx", room.path,
		 digest_text(&sum.digest).text);
	for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
		sqlite3 *db;
		snprintf(command, sizeof command, "%s", lies[i]);
		const int fd = open_index(O_RDWR);
		char *whole = malloc(1 << 20);
		const ssize_t n = pread(fd, whole, 1 << 20, 0);
		assert_int_equal(sqlite3_open_v2(name, &db, SQLITE_OPEN_READWRITE, "unix"),
				 SQLITE_OK);
		assert_int_equal(sqlite3_exec(db, command, NULL, NULL, NULL), SQLITE_OK);
		sqlite3_close(db);
		if (judge(&err) == 0)
			fail_msg("not found: %s", lies[i]);
		assert_int_equal(err.code, ERR_CORRUPT);
		ok(ftruncate(fd, 0));
		assert_int_equal(pwrite(fd, whole, (size_t)n, 0), n);
		must(judge(&err), &err);
		free(whole);
		close(fd);
	}
	const int fd = open_index(O_RDWR);
	ok(ftruncate(fd, 4096));
	assert_int_equal(judge(&err), -1);
	assert_int_equal(err.code, ERR_CORRUPT);
	ok(unlink(name));
	assert_int_equal(judge(&err), -1);
	assert_int_equal(err.code, ERR_CORRUPT);
	close(fd);
}

static void
test_a_damaged_archive_is_found(void **state)
{
	struct err err;
	char name[100];
	(void)state;
	capture();
	snprintf(name, sizeof name, "blobs/sha256/%s", digest_text(&sum.digest).text);
	const int fd = openat(room.store, name, O_RDWR | O_CLOEXEC);
	for (uint64_t at = 1; at < sum.bytes; at += sum.bytes / 40) {
		char c;
		must(fd_pread_all(fd, &c, 1, at, &err), &err);
		c ^= 1;
		must(fd_pwrite_all(fd, &c, 1, at, &err), &err);
		assert_int_equal(judge(&err), -1);
		assert_int_equal(err.code, ERR_CORRUPT);
		c ^= 1;
		must(fd_pwrite_all(fd, &c, 1, at, &err), &err);
	}
	must(judge(&err), &err);
	close(fd);
}

/* A small store: the archive and its index, each byte of both. */
static void
test_every_flipped_byte_and_every_cut_is_found(void **state)
{
	static char whole[1 << 17];
	struct err err;

	(void)state;
	put_text(room.upper, "a", "text");
	put_text(room.upper, "b", "more text");
	ok(linkat(room.upper, "b", room.upper, "c", 0));
	capture_upper();
	must(judge(&err), &err);
	for (int i = 0; i < 2; i++) {
		char name[100];
		snprintf(name, sizeof name, i ? "idx/%s.idx" : "blobs/sha256/%s",
			 digest_text(&sum.digest).text);
		const int fd = openat(room.store, name, O_RDWR | O_CLOEXEC);
		ok(fd);
		const ssize_t n = pread(fd, whole, sizeof whole, 0);
		assert_in_range(n, 100, sizeof whole - 1);
		for (ssize_t at = 0; at < n; at++) {
			const char flipped = (char)(whole[at] ^ 1 << at % 8);
			assert_int_equal(pwrite(fd, &flipped, 1, at), 1);
			if (judge(&err) == 0 || err.code != ERR_CORRUPT)
				fail_msg("%s: byte %zd: %s", name, at, err.why);
			assert_int_equal(pwrite(fd, &whole[at], 1, at), 1);
		}
		for (ssize_t cut = n - 1; cut >= 0; cut -= cut > 1000 ? 97 : 1) {
			ok(ftruncate(fd, cut));
			if (judge(&err) == 0 || err.code != ERR_CORRUPT)
				fail_msg("%s cut to %zd: %s", name, cut, err.why);
		}
		assert_int_equal(pwrite(fd, whole, (size_t)n, 0), n);
		must(judge(&err), &err);
		assert_int_equal(pwrite(fd, "x", 1, n), 1); /* and longer */
		assert_int_equal(judge(&err), -1);
		assert_int_equal(err.code, ERR_CORRUPT);
		ok(ftruncate(fd, n));
		close(fd);
	}
	sum.diff_id.at[5] ^= 1; /* what the manifest says of it */
	assert_int_equal(judge(&err), -1);
	assert_int_equal(err.code, ERR_CORRUPT);
}

int
main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, room_open, room_close)
	const struct CMUnitTest tests[] = {
	    T(test_the_index_leads_to_the_bytes),
	    T(test_an_index_that_lies_is_found),
	    T(test_a_damaged_archive_is_found),
	    T(test_every_flipped_byte_and_every_cut_is_found),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
