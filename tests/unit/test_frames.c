/* frames.c, frames_read.c and frames_table.c together; numbers are the invariants of frames.h. */
#include "snapshot/frames.c"

#include "tree_room.h"

static char *input;
static size_t input_n;

static void
make_input(size_t n)
{
	free(input);
	input = malloc(n + 1);
	assert_non_null(input);
	input_n = n;
	for (size_t i = 0; i < n; i++)
		input[i] = (char)(i % 251 ^ (i >> 9) * 31);
}

static int
new_file(void)
{
	const int fd = openat(room.dir, ".", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
	ok(fd);
	return fd;
}

static struct frames_sum
write_input(int fd, unsigned threads, size_t piece)
{
	struct frames_sum sum;
	struct err err;
	auto_of(frames_writer) struct frames_writer *w = frames_writer_new(fd, 1, threads, &err);

	assert_non_null(w);
	for (size_t at = 0; at < input_n; at += piece)
		must(frames_add(w, input + at, input_n - at < piece ? input_n - at : piece, &err),
		     &err);
	must(frames_finish(w, &sum, &err), &err);
	return sum;
}

/* All of it, compared with the input. 0, or -1 with why. */
static int
read_input(int fd, unsigned threads, uint64_t raw_max, struct frames_sum *sum, struct err *err)
{
	auto_of(frames_reader) struct frames_reader *r =
	    frames_reader_new(fd, threads, raw_max, err);
	struct str bytes;
	size_t at = 0;
	int more;

	if (!r)
		return -1;
	while ((more = frames_next(r, &bytes, err)) > 0) {
		if (at + bytes.len > input_n || memcmp(bytes.at, input + at, bytes.len) != 0)
			fail_msg("a wrong byte after %zu", at); /* invariant 4 */
		at += bytes.len;
	}
	if (more < 0)
		return -1;
	assert_int_equal(at, input_n);
	return frames_reader_sum(r, sum, err);
}

static void
test_what_is_written_is_read(void **state)
{
	static const size_t sizes[] = {0,
				       1,
				       FRAME_BYTES - 1,
				       FRAME_BYTES,
				       FRAME_BYTES + 1,
				       7 * FRAME_BYTES,
				       9 * FRAME_BYTES + 12345};
	(void)state;
	for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
		struct digest first = {{0}};
		make_input(sizes[i]);
		for (unsigned threads = 1; threads <= FRAMES_THREADS_MAX; threads += 5) {
			struct frames_sum wrote, read;
			struct err err;
			auto_close int fd = new_file();
			wrote = write_input(fd, threads, threads * 100003);
			must(read_input(fd, threads, input_n, &read, &err), &err);
			assert_memory_equal(&wrote, &read, sizeof wrote);
			assert_int_equal(wrote.raw_bytes, input_n);
			assert_int_equal(lseek(fd, 0, SEEK_END), wrote.bytes);
			const struct digest is = digest_of((struct str){input, input_n});
			assert_true(digest_equal(&is, &wrote.diff_id)); /* invariant 3 */
			if (threads == 1)
				first = wrote.digest;
			assert_true(digest_equal(&first, &wrote.digest)); /* invariant 1 */
		}
	}
}

static void
test_stock_zstd_reads_it_as_one_stream(void **state)
{
	struct frames_sum sum;
	(void)state;
	make_input(3 * FRAME_BYTES + 5);
	auto_close int fd = new_file();
	sum = write_input(fd, 2, 4096);
	char *bytes = malloc(sum.bytes), *out = malloc(input_n);
	struct err err;
	must(fd_pread_all(fd, bytes, sum.bytes, 0, &err), &err);
	assert_int_equal(ZSTD_decompress(out, input_n, bytes, sum.bytes), input_n);
	assert_memory_equal(out, input, input_n);
	free(bytes);
	free(out);
}

static void
test_a_damaged_file_yields_no_wrong_byte(void **state)
{
	struct frames_sum sum, read;
	struct err err;
	(void)state;
	make_input(2 * FRAME_BYTES + 100);
	auto_close int fd = new_file();
	sum = write_input(fd, 2, 65536);
	for (uint64_t at = 0; at < sum.bytes; at += sum.bytes / 97 + 1) {
		char good, bad;
		must(fd_pread_all(fd, &good, 1, at, &err), &err);
		bad = (char)(good ^ 4);
		must(fd_pwrite_all(fd, &bad, 1, at, &err), &err);
		/* an unused bit of a header may pass here: the digest then does not */
		if (read_input(fd, 2, input_n, &read, &err) == 0)
			assert_false(digest_equal(&read.digest, &sum.digest));
		else
			assert_int_equal(err.code, ERR_CORRUPT);
		must(fd_pwrite_all(fd, &good, 1, at, &err), &err);
	}
	for (uint64_t cut = 1; cut < sum.bytes; cut = cut * 3 + 1) {
		auto_close int shorter = new_file();
		char *bytes = malloc(sum.bytes);
		must(fd_pread_all(fd, bytes, sum.bytes, 0, &err), &err);
		must(fd_pwrite_all(shorter, bytes, sum.bytes - cut, 0, &err), &err);
		free(bytes);
		assert_int_equal(read_input(shorter, 2, input_n, &read, &err), -1);
		assert_int_equal(err.code, ERR_CORRUPT);
	}
}

static void
test_more_than_is_allowed_is_refused_before_a_byte_is_read(void **state)
{
	struct frames_sum read;
	struct err err;
	(void)state;
	make_input(2 * FRAME_BYTES);
	auto_close int fd = new_file();
	write_input(fd, 1, 65536);
	assert_int_equal(read_input(fd, 1, 2 * FRAME_BYTES - 1, &read, &err), -1);
	assert_int_equal(err.code, ERR_CORRUPT);
}

static void
test_a_full_disk_reaches_the_owner(void **state)
{
	struct frames_sum sum;
	struct err err;
	(void)state;
	make_input(20 * FRAME_BYTES);
	auto_close int fd = open("/dev/full", O_WRONLY | O_CLOEXEC);
	ok(fd);
	auto_of(frames_writer) struct frames_writer *w = frames_writer_new(fd, 1, 2, &err);
	int result = frames_add(w, input, input_n, &err);
	if (result == 0)
		result = frames_finish(w, &sum, &err);
	assert_int_equal(result, -1);
	assert_int_equal(err.code, ERR_NO_SPACE);
}

static void
test_both_can_be_left_in_the_middle(void **state)
{
	struct err err;
	struct str bytes;
	(void)state;
	make_input(30 * FRAME_BYTES);
	auto_close int fd = new_file();
	write_input(fd, 2, 65536);
	struct frames_reader *r = frames_reader_new(fd, 3, input_n, &err);
	assert_int_equal(frames_next(r, &bytes, &err), 1);
	frames_reader_free(r);
	auto_close int other = new_file();
	struct frames_writer *w = frames_writer_new(other, 1, 3, &err);
	must(frames_add(w, input, 12 * FRAME_BYTES + 7, &err), &err);
	frames_writer_free(w);
	free(input);
	input = NULL;
}

int
main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, room_open, room_close)
	const struct CMUnitTest tests[] = {
	    T(test_what_is_written_is_read),
	    T(test_stock_zstd_reads_it_as_one_stream),
	    T(test_a_damaged_file_yields_no_wrong_byte),
	    T(test_more_than_is_allowed_is_refused_before_a_byte_is_read),
	    T(test_a_full_disk_reaches_the_owner),
	    T(test_both_can_be_left_in_the_middle),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
