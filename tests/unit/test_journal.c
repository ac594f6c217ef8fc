/* Invariants of keeper/journal.h and wire/journal_read.h, each named by its number. */
#include "server/keeper/journal.c"
#include "server/wire/journal_read.c"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>

enum { MIB = 1 << 20 };

struct place {
	char path[64];
	int dir;
};

static int
setup(void **state)
{
	struct place *p = xnew(1, sizeof *p);
	memcpy(p->path, "/tmp/berth-journal-XXXXXX", 26);
	if (!mkdtemp(p->path))
		return -1;
	p->dir = open(p->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	*state = p;
	return p->dir < 0;
}

static int
teardown(void **state)
{
	struct place *p = *state;
	struct err err;
	const int root = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	const int gone = path_remove_tree(root, p->path + 1, &err);
	close(root);
	close(p->dir);
	free(p);
	return gone;
}

static uint64_t seed;
static uint32_t
any(void)
{
	seed = seed * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(seed >> 33);
}

/* The byte of a stream at an offset: every reader can tell whether it is the right one. */
static char
byte_at(enum journal_stream s, uint64_t offset)
{
	return (char)((offset * 2654435761u >> 13) + (unsigned)s * 7);
}

static void
give(struct journal *j, enum journal_stream s, size_t n, int expect)
{
	static char bytes[JOURNAL_WRITE_MAX_BYTES];
	struct err err;
	for (size_t i = 0; i < n; i++)
		bytes[i] = byte_at(s, j->offset[s] + i);
	assert_int_equal(journal_append(j, s, bytes, n, &err), expect);
}

static const struct journal_outcome well = {.ended_by = "itself"};

struct seen {
	uint64_t bytes[JOURNAL_STREAMS], gaps[JOURNAL_STREAMS], frames;
	bool ended, started;
	char json[JOURNAL_SEGMENT_BYTES];
	size_t json_bytes;
};

/* Reads all there is; checks every byte. Returns the last answer of journal_next. */
static int
read_all(int fd, size_t buf_bytes, struct seen *seen, struct journal_reader *r)
{
	auto_free char *buf = xnew(1, buf_bytes);
	struct journal_frame f;
	struct err err;
	int got;

	memset(seen, 0, offsetof(struct seen, json));
	seen->json_bytes = 0;
	if (r->fd != fd)
		journal_reader_init(r, fd);
	while ((got = journal_next(r, buf, buf_bytes, &f, &err)) > 0) {
		assert_true(f.length <= buf_bytes);
		seen->frames++;
		if (f.kind == JOURNAL_DATA) {
			for (size_t i = 0; i < f.length; i++)
				assert_int_equal(buf[i], byte_at(f.stream, f.stream_offset + i));
			seen->bytes[f.stream] += f.length;
			seen->gaps[f.stream] += f.gap_bytes;
		} else {
			if (seen->json_bytes + f.length < sizeof seen->json)
				memcpy(seen->json + seen->json_bytes, buf, f.length);
			seen->json_bytes += f.length;
			if (!f.more) {
				seen->json[seen->json_bytes] = '\0';
				if (f.kind == JOURNAL_START)
					seen->json_bytes = 0;
			}
			seen->started |= f.kind == JOURNAL_START;
			seen->ended |= f.kind == JOURNAL_END;
		}
		if (seen->ended && !f.more && f.kind == JOURNAL_END)
			return 1;
	}
	return got;
}

static struct seen seen; /* large */

static void
open_one(struct place *p, struct journal *j, uint64_t bound, int *reader)
{
	struct err err;
	assert_int_equal(journal_open(j, p->dir, "c_aaaaaaaaaaaaaaaa", bound, -1, &err), 0);
	*reader = journal_open_reader(p->dir, "c_aaaaaaaaaaaaaaaa", &err);
	assert_true(*reader >= 0);
}

static void
what_is_written_is_read_back_in_any_pieces(void **state)
{
	struct journal j;
	struct err err;
	int fd;
	seed = 1;
	open_one(*state, &j, 64 * MIB, &fd);
	assert_int_equal(journal_start(&j, "c_x", str_of("echo \"a\"\n\xff"), str_of("me"), &err),
			 0);
	for (int i = 0; i < 400; i++) /* odd sizes, so that frames meet the segments' ends anyhow */
		give(&j, any() % 2 ? JOURNAL_OUT : JOURNAL_ERR, any() % 40000, 0);
	assert_int_equal(journal_finish(&j, &well, &err), 0);
	assert_true(j.at > 4 * MIB);
	const size_t sizes[] = {7, 1000, 65536, 2 * MIB};
	for (size_t i = 0; i < 4; i++) {
		struct journal_reader r = {.fd = -1};
		assert_int_equal(read_all(fd, sizes[i], &seen, &r), 1);
		assert_true(seen.started && seen.ended);
		for (int s = JOURNAL_OUT; s <= JOURNAL_ERR; s++) {
			assert_int_equal(seen.bytes[s], j.offset[s]);
			assert_int_equal(seen.gaps[s], 0);
		}
		assert_int_equal(r.at, j.at); /* what call_taken reports is the file's size */
	}
	close(fd);
	journal_close(&j);
}

static void
no_frame_crosses_a_segment(void **state)
{
	struct journal j;
	uint8_t h[JOURNAL_FRAME_BYTES];
	struct err err;
	int fd;
	seed = 2;
	open_one(*state, &j, 64 * MIB, &fd);
	for (int i = 0; i < 200; i++)
		give(&j, JOURNAL_OUT, any() % 60000, 0);
	for (uint64_t at = JOURNAL_HEADER_BYTES; at < j.at;) {
		if (room_at(at) == 0) {
			at = next_segment(at);
			continue;
		}
		assert_int_equal(fd_pread_all(fd, h, sizeof h, at, &err), 0);
		const uint64_t end = at + sizeof h + get_u32(h + 4);
		assert_int_equal(at / MIB, (end - 1) / MIB);
		at = end;
	}
	close(fd);
	journal_close(&j);
}

/* 2 and 3: head and tail stay, the middle is a gap of known size, the disk is bounded. */
static void
past_its_bound_the_middle_goes(void **state)
{
	struct journal j;
	struct err err;
	struct stat st;
	int fd;
	seed = 3;
	open_one(*state, &j, 8 * MIB, &fd);
	journal_disown(&j);
	struct hasher *all = hasher_new();
	for (int i = 0; i < 300; i++) {
		static char bytes[100000];
		for (size_t k = 0; k < sizeof bytes; k++)
			bytes[k] = byte_at(JOURNAL_OUT, j.offset[JOURNAL_OUT] + k);
		hasher_add(all, bytes, sizeof bytes);
		assert_int_equal(journal_append(&j, JOURNAL_OUT, bytes, sizeof bytes, &err), 0);
		assert_false(journal_is_full(&j));
	}
	assert_int_equal(journal_finish(&j, &well, &err), 0);
	assert_int_equal(fstat(fd, &st), 0);
	assert_true(st.st_size > 28 * MIB);
	assert_true((uint64_t)st.st_blocks * 512 <= 8 * MIB + MIB);
	struct journal_reader r = {.fd = -1};
	assert_int_equal(read_all(fd, 65536, &seen, &r), 1);
	assert_int_equal(seen.bytes[JOURNAL_OUT] + seen.gaps[JOURNAL_OUT], 30000000);
	assert_true(seen.bytes[JOURNAL_OUT] > 7 * MIB && seen.gaps[JOURNAL_OUT] > 20 * MIB);
	const struct digest sum = hasher_sum(all);
	assert_non_null(strstr(seen.json, digest_text(&sum).text));
	assert_non_null(strstr(seen.json, "\"out_bytes\":30000000"));
	hasher_free(all);
	close(fd);
	journal_close(&j);
}

static void
what_the_owner_has_not_taken_is_never_punched(void **state)
{
	struct journal j;
	int fd;
	open_one(*state, &j, 4 * MIB, &fd);
	while (!journal_is_full(&j))
		give(&j, JOURNAL_OUT, 100000, 0);
	assert_true(j.at >= 4 * MIB && j.at < 4 * MIB + 200000);
	assert_int_equal(j.punched_to, j.punched_from);
	give(&j, JOURNAL_OUT, 100000, 0); /* even when more comes all the same */
	assert_int_equal(j.punched_to, j.punched_from);
	journal_take(&j, MIB + MIB / 2); /* half a segment behind the head: not enough */
	assert_true(journal_is_full(&j));
	journal_take(&j, 2 * MIB);
	assert_false(journal_is_full(&j));
	give(&j, JOURNAL_OUT, 100000, 0);
	assert_int_equal(j.punched_to, 2 * MIB);
	journal_take(&j, MIB); /* it never goes back */
	assert_int_equal(j.taken, 2 * MIB);
	journal_take(&j, UINT64_MAX); /* nor past what there is */
	assert_int_equal(j.taken, 2 * MIB);
	while (!journal_is_full(&j))
		give(&j, JOURNAL_OUT, 100000, 0);
	journal_disown(&j);
	assert_false(journal_is_full(&j));
	close(fd);
	journal_close(&j);
}

/* Who has read all waits at the next segment where no frame fits into the rest of this one. */
static void
an_owner_at_the_end_of_a_segment_has_taken_it(void **state)
{
	enum { END = 5 * MIB - 10 };
	struct journal_reader r = {.fd = -1};
	struct journal j;
	int fd;

	open_one(*state, &j, 4 * MIB, &fd);
	while (j.at < END) {
		const uint64_t left = END - j.at - JOURNAL_FRAME_BYTES;
		give(&j, JOURNAL_OUT, left > 200000 ? 100000 : left, 0);
	}
	assert_int_equal(j.at, END);
	assert_true(journal_is_full(&j));
	assert_int_equal(read_all(fd, 65536, &seen, &r), 0);
	journal_take(&j, r.at);
	assert_false(journal_is_full(&j));
	close(fd);
	journal_close(&j);
}

/* An owner that takes as it reads sees every byte, though the journal is many times its bound. */
static void
an_owner_that_follows_misses_nothing(void **state)
{
	struct journal j;
	struct err err;
	int fd;
	uint64_t out = 0;
	seed = 4;
	open_one(*state, &j, 4 * MIB, &fd);
	struct journal_reader r = {.fd = -1};
	for (int i = 0; i < 200; i++) {
		while (!journal_is_full(&j) && any() % 8)
			give(&j, JOURNAL_OUT, any() % 200000, 0);
		assert_int_equal(read_all(fd, 100000, &seen, &r), 0);
		assert_int_equal(seen.gaps[JOURNAL_OUT], 0);
		out += seen.bytes[JOURNAL_OUT];
		journal_take(&j, r.at);
	}
	assert_int_equal(journal_finish(&j, &well, &err), 0);
	assert_int_equal(read_all(fd, 100000, &seen, &r), 1);
	assert_int_equal(out + seen.bytes[JOURNAL_OUT], j.offset[JOURNAL_OUT]);
	assert_true(j.punched_to > j.punched_from && j.at > 20 * MIB);
	close(fd);
	journal_close(&j);
}

/* 3 of the form: a reader in the middle of what is punched then goes on behind it. */
static void
a_slow_reader_meets_the_hole_and_is_told(void **state)
{
	struct journal j;
	int fd;
	char buf[5000];
	struct journal_frame f;
	struct err err;
	open_one(*state, &j, 4 * MIB, &fd);
	journal_disown(&j);
	for (int i = 0; i < 30; i++)
		give(&j, JOURNAL_OUT, 100000, 0);
	struct journal_reader r;
	journal_reader_init(&r, fd);
	while (r.at < MIB + 2000) /* stops within a frame, behind the head */
		assert_int_equal(journal_next(&r, buf, sizeof buf, &f, &err), 1);
	assert_true(f.more);
	const uint64_t stood = r.offset[JOURNAL_OUT];
	for (int i = 0; i < 60; i++)
		give(&j, JOURNAL_OUT, 100000, 0);
	assert_true(j.punched_to > 2 * MIB);
	assert_int_equal(journal_next(&r, buf, sizeof buf, &f, &err), 1);
	assert_int_equal(f.gap_bytes, f.stream_offset - stood);
	assert_true(f.gap_bytes > MIB);
	for (size_t i = 0; i < f.length; i++)
		assert_int_equal(buf[i], byte_at(JOURNAL_OUT, f.stream_offset + i));
	close(fd);
	journal_close(&j);
}

/* Invariant 5: whose newest frame was punched out says where it stands again, at once. */
static void
a_stream_that_fell_silent_before_the_hole_is_told_of(void **state)
{
	struct journal j;
	struct journal_reader r = {.fd = -1};
	struct err err;
	int fd;

	open_one(*state, &j, 4 * MIB, &fd);
	journal_disown(&j);
	for (int i = 0; i < 5; i++)
		give(&j, JOURNAL_OUT, JOURNAL_WRITE_MAX_BYTES, 0);
	give(&j, JOURNAL_ERR, 100, 0);
	for (int i = 0; i < 40; i++)
		give(&j, JOURNAL_OUT, JOURNAL_WRITE_MAX_BYTES, 0);
	assert_int_equal(read_all(fd, 65536, &seen, &r), 0);
	assert_int_equal(seen.gaps[JOURNAL_ERR], 100);
	for (int i = 0; i < 40; i++) /* and what said so goes too */
		give(&j, JOURNAL_OUT, JOURNAL_WRITE_MAX_BYTES, 0);
	assert_int_equal(journal_finish(&j, &well, &err), 0);
	r.fd = -1;
	assert_int_equal(read_all(fd, 65536, &seen, &r), 1);
	assert_int_equal(seen.gaps[JOURNAL_ERR], 100);
	assert_int_equal(seen.bytes[JOURNAL_ERR], 0);
	close(fd);
	journal_close(&j);
}

static void
a_tail_cut_short_is_not_there_yet(void **state)
{
	struct journal j;
	struct err err;
	int fd;
	open_one(*state, &j, 4 * MIB, &fd);
	struct journal_reader r = {.fd = -1};
	assert_int_equal(journal_start(&j, "c", str_of("x"), str_of("y"), &err), 0);
	give(&j, JOURNAL_OUT, 500, 0);
	const uint64_t whole = j.at;
	give(&j, JOURNAL_ERR, 300, 0);
	for (uint64_t size = j.at - 1; size >= whole; size--) {
		assert_int_equal(ftruncate(j.fd, (off_t)size), 0);
		r.fd = -1;
		assert_int_equal(read_all(fd, 100, &seen, &r), 0);
		assert_int_equal(seen.bytes[JOURNAL_ERR], 0);
		assert_int_equal(seen.bytes[JOURNAL_OUT], 500);
	}
	for (off_t size = 63; size >= 0; size -= 21) { /* nor is half a header */
		assert_int_equal(ftruncate(j.fd, size), 0);
		r.fd = -1;
		assert_int_equal(read_all(fd, 100, &seen, &r), 0);
	}
	close(fd);
	journal_close(&j);
}

/* 1 and 4: a file that may not grow stands for a full disk. */
static void
on_a_full_disk_bytes_are_counted_and_the_call_goes_on(void **state)
{
	struct journal j;
	struct err err;
	struct rlimit old, small;
	int fd;
	signal(SIGXFSZ, SIG_IGN);
	open_one(*state, &j, 4 * MIB, &fd);
	give(&j, JOURNAL_OUT, 1000, 0);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	small = old;
	small.rlim_cur = j.at + 200; /* the next frame fits in part */
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
	const uint64_t before = j.at;
	give(&j, JOURNAL_OUT, 5000, -1);
	assert_int_equal(j.at, before);
	struct stat st;
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, before);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
	give(&j, JOURNAL_OUT, 700, 0); /* there is room again */
	assert_int_equal(journal_finish(&j, &well, &err), 0);
	struct journal_reader r = {.fd = -1};
	assert_int_equal(read_all(fd, 4096, &seen, &r), 1);
	assert_int_equal(seen.bytes[JOURNAL_OUT], 1700);
	assert_int_equal(seen.gaps[JOURNAL_OUT], 5000);
	assert_non_null(strstr(seen.json, "\"out_bytes\":6700"));
	assert_non_null(strstr(seen.json, "\"lost_bytes\":5000"));
	close(fd);
	journal_close(&j);
}

static void
a_loss_at_the_very_end_is_a_gap_too(void **state)
{
	struct journal j;
	struct err err;
	struct rlimit old, small;
	int fd;
	signal(SIGXFSZ, SIG_IGN);
	open_one(*state, &j, 4 * MIB, &fd);
	give(&j, JOURNAL_ERR, 10, 0);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	small = old;
	small.rlim_cur = j.at;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
	give(&j, JOURNAL_ERR, 77, -1);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
	assert_int_equal(journal_finish(&j, &well, &err), 0);
	struct journal_reader r = {.fd = -1};
	assert_int_equal(read_all(fd, 4096, &seen, &r), 1);
	assert_int_equal(seen.gaps[JOURNAL_ERR], 77);
	close(fd);
	journal_close(&j);
}

/* 3: what comes late does not punch what the owner is still reading. */
static void
behind_the_end_nothing_is_punched(void **state)
{
	struct journal j;
	struct err err;
	int fd;
	open_one(*state, &j, 4 * MIB, &fd);
	for (int i = 0; i < 60; i++) /* a draining call may pass its bound */
		give(&j, JOURNAL_OUT, 100000, 0);
	assert_int_equal(journal_finish(&j, &well, &err), 0);
	journal_disown(&j);
	give(&j, JOURNAL_LATE, 1000, 0);
	struct journal_reader r = {.fd = -1};
	assert_int_equal(read_all(fd, 65536, &seen, &r), 1);
	assert_int_equal(seen.bytes[JOURNAL_OUT], 6000000);
	close(fd);
	journal_close(&j);
}

static void
after_the_end_little_is_kept(void **state)
{
	struct journal j;
	struct err err;
	int fd;
	open_one(*state, &j, 4 * MIB, &fd);
	assert_int_equal(journal_finish(&j, &well, &err), 0);
	for (int i = 0; i < 5; i++)
		give(&j, JOURNAL_LATE, 30000, 0);
	assert_int_equal(j.offset[JOURNAL_LATE], JOURNAL_LATE_MAX_BYTES);
	struct journal_reader r = {.fd = -1};
	assert_int_equal(read_all(fd, 4096, &seen, &r), 1); /* stops at the end */
	assert_int_equal(read_all(fd, 4096, &seen, &r), 0);
	assert_int_equal(seen.bytes[JOURNAL_LATE], JOURNAL_LATE_MAX_BYTES);
	close(fd);
	journal_close(&j);
}

static void
a_text_becomes_valid_json(void **state)
{
	(void)state;
	auto_buf b = BUF_MAX(1000);
	journal_add_json(
	    &b,
	    (struct str){"a\"\\\n\x7f\xc3\xa4\xff\xc0\xaf\xed\xa0\x80\xf4\x90\x80\x80\xc3", 18});
	assert_string_equal(
	    buf_cstr(&b),
	    "\"a\\\"\\\\\\u000a\\u007f\xc3\xa4\\ufffd\\ufffd\\ufffd\\ufffd\\ufffd\\ufffd"
	    "\\ufffd\\ufffd\\ufffd\\ufffd\\ufffd\"");
}

/* 5 of the form: whatever the bytes are, the reader answers within bounds, and never goes back. */
static void
a_reader_takes_nothing_on_trust(void **state)
{
	struct journal j;
	struct err err;
	int fd, corrupt = 0, good = 0;
	uint8_t image[4096], bad[4096];
	seed = 5;
	open_one(*state, &j, 4 * MIB, &fd);
	assert_int_equal(journal_start(&j, "c", str_of("x"), str_of("y"), &err), 0);
	for (int i = 0; i < 12; i++)
		give(&j, 1 + (enum journal_stream)(any() % 2), any() % 200, 0);
	assert_int_equal(journal_finish(&j, &well, &err), 0);
	assert_true(j.at < sizeof image);
	const size_t n = (size_t)j.at;
	assert_int_equal(fd_pread_all(fd, image, n, 0, &err), 0);
	const int file = memfd_create("fuzz", MFD_CLOEXEC);
	for (int round = 0; round < 20000; round++) {
		memcpy(bad, image, n);
		for (uint32_t k = any() % 6; k > 0; k--)
			bad[any() % n] = (uint8_t)(any() % 3 ? any() : 0xff);
		const size_t size = any() % 4 ? n : any() % (n + 1);
		assert_int_equal(ftruncate(file, 0), 0);
		assert_int_equal(fd_pwrite_all(file, bad, size, 0, &err), 0);
		if (any() % 8 == 0) /* the same, with a hole behind it */
			assert_int_equal(ftruncate(file, 3 * MIB + (off_t)(any() % MIB)), 0);
		struct journal_reader r;
		struct journal_frame f;
		char buf[64];
		uint64_t at = 0, offset[JOURNAL_STREAMS] = {0};
		int got, frames = 0;
		journal_reader_init(&r, file);
		while ((got = journal_next(&r, buf, sizeof buf, &f, &err)) > 0) {
			assert_true(f.length <= sizeof buf && r.at > at && ++frames < 5000);
			assert_true(f.stream_offset >= offset[f.stream]);
			offset[f.stream] = f.stream_offset + f.length;
			at = r.at;
		}
		corrupt +=
		    got < 0 && err.code == ERR_CORRUPT; /* any other failure is counted nowhere */
		good += got == 0;
	}
	assert_true(corrupt > 1000 && good > 1000); /* both ways were walked */
	assert_int_equal(corrupt + good, 20000);
	close(file);
	close(fd);
	journal_close(&j);
}

static void
a_file_made_ahead_is_the_journal_that_is_opened_on_it(void **state)
{
	struct place *p = *state;
	struct journal j;
	struct stat made, opened;
	struct err err;

	const int file = journal_create(p->dir, "c_bbbbbbbbbbbbbbbb", &err);
	assert_int_equal(fstat(file, &made), 0);
	assert_int_equal(made.st_size, 0);
	assert_int_equal(journal_open(&j, p->dir, "c_bbbbbbbbbbbbbbbb", 0, file, &err), 0);
	const int reader = journal_open_reader(p->dir, "c_bbbbbbbbbbbbbbbb", &err);
	assert_int_equal(fstat(reader, &opened), 0);
	assert_int_equal(opened.st_ino, made.st_ino);
	assert_int_equal(opened.st_size, JOURNAL_HEADER_BYTES);
	close(reader);
	journal_close(&j);
	assert_int_equal(journal_create(p->dir, "c_bbbbbbbbbbbbbbbb", &err), -1);
}

int
main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
	    T(a_file_made_ahead_is_the_journal_that_is_opened_on_it),
	    T(what_is_written_is_read_back_in_any_pieces),
	    T(no_frame_crosses_a_segment),
	    T(past_its_bound_the_middle_goes),
	    T(what_the_owner_has_not_taken_is_never_punched),
	    T(an_owner_at_the_end_of_a_segment_has_taken_it),
	    T(an_owner_that_follows_misses_nothing),
	    T(a_slow_reader_meets_the_hole_and_is_told),
	    T(a_stream_that_fell_silent_before_the_hole_is_told_of),
	    T(a_tail_cut_short_is_not_there_yet),
	    T(on_a_full_disk_bytes_are_counted_and_the_call_goes_on),
	    T(a_loss_at_the_very_end_is_a_gap_too),
	    T(behind_the_end_nothing_is_punched),
	    T(after_the_end_little_is_kept),
	    T(a_text_becomes_valid_json),
	    T(a_reader_takes_nothing_on_trust),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
