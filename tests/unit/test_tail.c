/* The end of a call's output, out of its journal, as bisect shows it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "server/conn/tail.c"

static struct buf shown;

void
control_output(struct channel *ch, struct str bytes)
{
	(void)ch;
	buf_str(&shown, bytes);
}

struct piece {
	enum journal_stream stream;
	const char *text;
	unsigned times;
};

/* A journal with these, and what is printed of its last bytes. */
static const char *
tail_of(const struct piece *pieces, size_t n, uint32_t bytes, bool json)
{
	struct conn conn = {.piece = xnew(1, FLOW_PIECE_BYTES)};
	struct channel ch = {.conn = &conn};
	static struct wire w;
	uint8_t header[JOURNAL_HEADER_BYTES] = JOURNAL_MAGIC, frame[JOURNAL_FRAME_BYTES];
	const int fd = memfd_create("journal", MFD_CLOEXEC);
	uint64_t at[JOURNAL_STREAMS] = {0};

	const uint32_t segment = JOURNAL_SEGMENT_BYTES;
	memcpy(header + 56, &segment, sizeof segment);
	const uint64_t punched = JOURNAL_SEGMENT_BYTES;
	memcpy(header + 40, &punched, sizeof punched);
	memcpy(header + 48, &punched, sizeof punched);
	assert_int_equal(write(fd, header, sizeof header), sizeof header);
	for (size_t i = 0; i < n; i++)
		for (unsigned k = 0; k < pieces[i].times; k++) {
			const uint32_t len = (uint32_t)strlen(pieces[i].text);
			memset(frame, 0, sizeof frame);
			frame[0] = JOURNAL_DATA;
			frame[1] = (uint8_t)pieces[i].stream;
			memcpy(frame + 4, &len, sizeof len);
			memcpy(frame + 16, &at[pieces[i].stream], 8);
			at[pieces[i].stream] += len;
			assert_int_equal(write(fd, frame, sizeof frame), sizeof frame);
			assert_int_equal(write(fd, pieces[i].text, len), len);
		}
	w.message.id = MSG_verb_tail;
	w.message.fds[0] = fd;
	w.message.verb_tail = (struct msg_verb_tail){.bytes = bytes, .json = json,
						     .before = json ? (struct str)STR_LIT("{\"output\":") : (struct str)STR_LIT("  "),
						     .behind = STR_LIT("}\n")};
	buf_clear(&shown);
	tail_print(&ch, &w);
	close(fd);
	free(conn.piece);
	return buf_cstr(&shown);
}
#define TAIL(bytes, json, ...)                                                                     \
	tail_of((const struct piece[]){__VA_ARGS__},                                               \
		sizeof((const struct piece[]){__VA_ARGS__}) / sizeof(struct piece), bytes, json)

static void
both_streams_in_order_and_nothing_of_what_came_after_the_end(void **state)
{
	(void)state;
	assert_string_equal(TAIL(100, false, {JOURNAL_OUT, "a\n", 1}, {JOURNAL_ERR, "b\n", 1}, {JOURNAL_OUT, "c", 1}),
			    "  a\n  b\n  c\n");
	assert_string_equal(TAIL(100, false, {JOURNAL_OUT, "", 0}), "");
	assert_string_equal(TAIL(100, true, {JOURNAL_OUT, "say \"x\"\n", 1}), "{\"output\":\"say \\\"x\\\"\\n\"}\n");
	assert_string_equal(TAIL(0, true, {JOURNAL_OUT, "x", 1}), "{\"output\":\"\"}\n");
}

static void
what_is_cut_begins_with_a_whole_line(void **state)
{
	(void)state;
	assert_string_equal(TAIL(7, false, {JOURNAL_OUT, "first\n", 1}, {JOURNAL_OUT, "xy\n", 2}), "  xy\n  xy\n");
	assert_string_equal(TAIL(8, false, {JOURNAL_OUT, "line\n", 20000}), "  line\n");
	/* one line that is longer than all that is shown: its end */
	assert_string_equal(TAIL(4, false, {JOURNAL_OUT, "0123456789", 1}), "  6789\n");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(both_streams_in_order_and_nothing_of_what_came_after_the_end),
	    cmocka_unit_test(what_is_cut_begins_with_a_whole_line),
	};
	shown = BUF_MAX(1 << 20);
	const int failed = cmocka_run_group_tests(tests, NULL, NULL);
	buf_free(&shown);
	return failed;
}
