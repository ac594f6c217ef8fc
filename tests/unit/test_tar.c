/* tar.c against other readers: libarchive behind tar_read.c, GNU tar in test_capture.c, and an
 * archive that was written once (tests/golden/v1-basic.tar.zst) and must be readable for ever. */
#include "snapshot/tar.c"
#include "snapshot/blob.h"
#include "snapshot/idx.h"

#include "tree_room.h"

static struct entry
file(const char *path, uint64_t size)
{
	return (struct entry){.type = ENTRY_FILE, .path = str_of(path), .mode = 0640, .size = size};
}

static int
write_one(const struct entry *e, int fd, struct frames_sum *sum, uint64_t *at, int out_fd)
{
	struct err err;
	bool torn = false;
	struct tar_writer t;
	auto_of(frames_writer) struct frames_writer *w = frames_writer_new(out_fd, 1, 1, &err);

	tar_writer_init(&t, w);
	must(tar_put(&t, e, at, &err), &err);
	if (e->type == ENTRY_FILE)
		must(tar_put_file(&t, e, fd, NULL, NULL, &torn, &err), &err);
	assert_int_equal(t.left, 0);
	must(tar_end(&t, &err), &err);
	must(frames_finish(w, sum, &err), &err);
	tar_writer_done(&t);
	return torn;
}

static struct frames_reader *
open_frames(int fd)
{
	struct err err;
	struct frames_reader *r = frames_reader_new(fd, 1, 1ull << 40, &err);
	if (!r)
		must(-1, &err);
	return r;
}

static void
test_numbers_that_do_not_fit_octal(void **state)
{
	static const struct entry rows[] = {
	    {.type = ENTRY_FIFO,
	     .mode = 07777,
	     .uid = 4294967294u,
	     .gid = 2097152,
	     .mtime_s = 1,
	     .mtime_ns = 1},
	    {.type = ENTRY_FIFO,
	     .mode = 0,
	     .uid = 2097151,
	     .gid = 0,
	     .mtime_s = 8589934592,
	     .mtime_ns = 0},
	    {.type = ENTRY_FIFO, .mode = 01, .uid = 1, .gid = 65535, .mtime_s = -1, .mtime_ns = 0},
	    {.type = ENTRY_FIFO,
	     .mode = 01,
	     .uid = 1,
	     .gid = 65535,
	     .mtime_s = -5,
	     .mtime_ns = 999999999},
	};
	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		struct entry e = rows[i], back;
		struct frames_sum sum;
		struct err err;
		uint64_t at;
		e.path = STR_LIT("p");
		auto_close int fd = openat(room.dir, ".", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
		write_one(&e, -1, &sum, &at, fd);
		auto_of(frames_reader) struct frames_reader *r = open_frames(fd);
		auto_of(tar_reader) struct tar_reader *t = tar_reader_new(r, &err);
		must(tar_next(t, &back, &err), &err);
		assert_int_equal(back.mode, e.mode);
		assert_int_equal(back.uid, e.uid);
		assert_int_equal(back.gid, e.gid);
		assert_true(back.mtime_s == e.mtime_s && back.mtime_ns == e.mtime_ns);
		assert_int_equal(tar_next(t, &back, &err), 0);
	}
}

static void
test_the_place_of_the_data_is_known(void **state)
{
	struct frames_sum sum;
	uint64_t at;
	char path[300];
	(void)state;
	memset(path, 'p', sizeof path);
	for (size_t n = 98; n < 104; n++) {
		path[n] = '\0';
		const struct entry e = file(path, 5);
		put_text(room.dir, "data", "hello");
		auto_close int fd = openat(room.dir, "data", O_RDONLY | O_CLOEXEC);
		auto_close int out = openat(room.dir, ".", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
		write_one(&e, fd, &sum, &at, out);
		path[n] = 'p';
		auto_of(frames_reader) struct frames_reader *r = open_frames(out);
		struct str bytes;
		struct err err;
		must(frames_next(r, &bytes, &err), &err);
		assert_memory_equal(bytes.at + at, "hello", 5);
	}
}

static void
test_a_file_that_became_shorter_is_torn_and_padded(void **state)
{
	struct frames_sum sum;
	uint64_t at;
	(void)state;
	put_text(room.dir, "data", "short");
	auto_close int fd = openat(room.dir, "data", O_RDONLY | O_CLOEXEC);
	auto_close int out = openat(room.dir, ".", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
	const struct entry e = file("f", 2000);
	assert_int_equal(write_one(&e, fd, &sum, &at, out), 1);
	assert_int_equal(sum.raw_bytes, 512 + 2048 + 1024);
}

static void
test_many_extents_are_read_back(void **state)
{
	enum { N = 20000 };
	static struct extent x[N];
	struct err err;
	struct frames_sum sum;
	uint64_t at;
	(void)state;
	for (size_t i = 0; i < N; i++)
		x[i] = (struct extent){i * 8192, 1};
	struct entry e = file("sparse", N * 8192ull), back;
	e.sparse = true;
	e.extents = x;
	e.n_extents = N;
	auto_close int fd = openat(room.dir, ".", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
	for (size_t i = 0; i < N; i++)
		assert_int_equal(pwrite(fd, "x", 1, (off_t)x[i].at), 1);
	auto_close int out = openat(room.dir, ".", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
	assert_int_equal(write_one(&e, fd, &sum, &at, out), 0);
	auto_of(frames_reader) struct frames_reader *r = open_frames(out);
	auto_of(tar_reader) struct tar_reader *t = tar_reader_new(r, &err);
	must(tar_next(t, &back, &err), &err);
	assert_true(back.sparse);
	assert_int_equal(back.size, e.size);
	struct str piece;
	size_t n = 0;
	int more;
	while ((more = tar_read(t, &piece, &at, &err)) > 0)
		for (size_t i = 0; i < piece.len; i++, n++)
			assert_int_equal(at + i, n * 8192);
	must(more, &err);
	assert_int_equal(n, N);
}

/* ---- golden ---- */

/* An entry as a line, as in v1-basic.txt. */
static void
describe(const struct entry *e, const struct digest *data, struct buf *out)
{
	static const char types[] = "fdlphwO";
	buf_fmt(out, "%c %04o %u:%u %llu %lld.%09u ", types[e->type], e->mode, e->uid, e->gid,
		(unsigned long long)e->size, (long long)e->mtime_s, e->mtime_ns);
	for (size_t i = 0; i < e->path.len; i++)
		if ((unsigned char)e->path.at[i] <= ' ' || (unsigned char)e->path.at[i] > 126)
			buf_fmt(out, "\\%03o", (unsigned char)e->path.at[i]);
		else
			buf_char(out, e->path.at[i]);
	if (e->link.len)
		buf_fmt(out, " -> %.*s", (int)e->link.len, e->link.at);
	for (size_t i = 0; i < e->attrs->n; i++)
		buf_fmt(out, " [%s %zu]", e->attrs->at[i].name, e->attrs->at[i].n);
	if (e->type == ENTRY_FILE)
		buf_fmt(out, " %.16s", digest_text(data).text);
	buf_char(out, '\n');
}

static void
test_the_golden_archive_is_read_for_ever(void **state)
{
	char path[512];
	struct err err;
	struct entry e;
	(void)state;
	snprintf(path, sizeof path, "%.*sgolden", (int)(strstr(__FILE__, "unit/") - __FILE__),
		 __FILE__);
	auto_close int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ok(dir);
	auto_close int fd = openat(dir, "v1-basic.tar.zst", O_RDONLY | O_CLOEXEC);
	ok(fd);
	auto_buf want = BUF_MAX(1 << 20), is = BUF_MAX(1 << 20);
	must(path_read(dir, "v1-basic.txt", &want, &err), &err);
	auto_of(frames_reader) struct frames_reader *r = open_frames(fd);
	auto_of(tar_reader) struct tar_reader *t = tar_reader_new(r, &err);
	int more;
	while ((more = tar_next(t, &e, &err)) > 0) {
		auto_of(hasher) struct hasher *h = hasher_new();
		struct str piece;
		uint64_t at, next = 0;
		while (e.type == ENTRY_FILE && tar_read(t, &piece, &at, &err) > 0) {
			if (at != next) /* behind a hole */
				hasher_add(h, &at, sizeof at);
			hasher_add(h, piece.at, piece.len);
			next = at + piece.len;
		}
		const struct digest data = hasher_sum(h);
		describe(&e, &data, &is);
	}
	must(more, &err);
	struct frames_sum sum;
	must(frames_reader_sum(r, &sum, &err), &err);
	buf_fmt(&is, "digest %s\ndiff_id %s\n", digest_text(&sum.digest).text,
		digest_text(&sum.diff_id).text);
	if (getenv("BERTH_GOLDEN_PRINT"))
		fputs(buf_cstr(&is), stdout);
	assert_string_equal(buf_cstr(&is), buf_cstr(&want));
}

int
main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, room_open, room_close)
	const struct CMUnitTest tests[] = {
	    T(test_numbers_that_do_not_fit_octal),
	    T(test_the_place_of_the_data_is_known),
	    T(test_a_file_that_became_shorter_is_torn_and_padded),
	    T(test_many_extents_are_read_back),
	    T(test_the_golden_archive_is_read_for_ever),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
