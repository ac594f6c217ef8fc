/* The log of sftp-server: what is read of it, and that nothing it holds does harm. */
#include "server/keeper/sftp_log.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static struct {
	struct sftp_log log;
	struct buf told; /* lines of wire/transfers.h */
	unsigned n;
} room;

static void
on_transfer(void *ctx, const struct transfer *t)
{
	(void)ctx;
	transfer_put(&room.told, t);
	room.n++;
}

static int
set_up(void **state)
{
	(void)state;
	memset(&room, 0, sizeof room);
	room.told = BUF_MAX(64 << 20);
	room.log.on_transfer = on_transfer;
	return 0;
}

static int
tear_down(void **state)
{
	(void)state;
	buf_free(&room.told);
	return 0;
}

static void
take(const char *text)
{
	sftp_log_take(&room.log, text, strlen(text));
}

static void
assert_told(const char *text)
{
	sftp_log_settle(&room.log);
	assert_string_equal(buf_cstr(&room.told), text);
}

static void
each_act_is_told_with_its_names_and_bytes(void **state)
{
	(void)state;
	take("session opened for local user root from [UNKNOWN]\r\n"
	     "received client version 3\r\n"
	     "realpath \".\"\n"
	     "open \"/a b\" flags WRITE,CREATE mode 0644\r\n"
	     "set \"/a b\" modtime 20261127-18:00:00\n"
	     "set \"/a b\" mode 0600\n"
	     "close \"/a b\" bytes read 0 written 18446744073709551615\n"
	     "forced close \"/c\" bytes read 7 written 0\n"
	     "remove name \"/d\"\n"
	     "posix-rename old \"/e\" new \"/f\"\n"
	     "rename old \"/e\" new \"/f\"\n"
	     "hardlink old \"/g\" new \"/h\"\n"
	     "symlink old \"../i\" new \"/j\"\n"
	     "mkdir name \"/k\" mode 0777\n"
	     "rmdir name \"/k\"\n"
	     "set \"/k\" owner 1 group 2\n"
	     "session closed for local user root from [UNKNOWN]\n");
	assert_told("open\t/a b\t\t0\t0\tflags WRITE,CREATE mode 0644\t\n"
		    "set\t/a b\t\t0\t0\tmode 0600\t\n"
		    "close\t/a b\t\t0\t18446744073709551615\t\t\n"
		    "close\t/c\t\t7\t0\t\t\n"
		    "remove\t/d\t\t0\t0\t\t\n"
		    "rename\t/e\t/f\t0\t0\t\t\n"
		    "rename\t/e\t/f\t0\t0\t\t\n"
		    "link\t/g\t/h\t0\t0\t\t\n"
		    "symlink\t../i\t/j\t0\t0\t\t\n"
		    "mkdir\t/k\t\t0\t0\tmode 0777\t\n"
		    "rmdir\t/k\t\t0\t0\t\t\n"
		    "set\t/k\t\t0\t0\towner 1 group 2\t\n");
	assert_string_equal(room.log.words, "");
}

static void
a_failure_is_that_of_the_request_before_it_alone(void **state)
{
	(void)state;
	take("remove name \"/a\"\nsent status Permission denied\n"
	     "remove name \"/b\"\nstat name \"/c\"\nsent status No such file\n"
	     "sent status Failure\n"
	     "process_write: write \"/d\": No space left on device\nsent status Failure\n");
	assert_told("remove\t/a\t\t0\t0\t\tPermission denied\n"
		    "remove\t/b\t\t0\t0\t\t\n"
		    "write\t/d\t\t0\t0\t\tNo space left on device\n");
}

static void
a_name_with_quotes_ends_where_its_line_can_end_last(void **state)
{
	(void)state;
	take("open \"/a\" flags READ mode 0\" flags WRITE mode 0644\n"
	     "close \"/a\" bytes read 1 written 2\" bytes read 3 written 4\n"
	     "remove name \"/a\" mode \"b\"\n"
	     "rename old \"/a\" new \"b\" new \"/c\"\n");
	assert_told("open\t/a\" flags READ mode 0\t\t0\t0\tflags WRITE mode 0644\t\n"
		    "close\t/a\" bytes read 1 written 2\t\t3\t4\t\t\n"
		    "remove\t/a\" mode \"b\t\t0\t0\t\t\n"
		    "rename\t/a\" new \"b\" new \"/c\t\t0\t0\t\t\n");
}

static void
what_has_no_known_form_is_told_to_nobody_but_kept_as_words(void **state)
{
	(void)state;
	take("close \"/a\" bytes read x written 2\n"
	     "close \"/a\" bytes read 1 written 99999999999999999999\n"
	     "close \"/a\"\nopen \"\nremove name \"\nremove name \"/a\nrename old \"/a\"\n\n"
	     "ld.so: libc.so.6: \x1b[31mbroken\n");
	assert_told("");
	assert_string_equal(room.log.words, "ld.so: libc.so.6: ?[31mbroken");
}

static void
lines_may_come_in_any_pieces(void **state)
{
	static const char text[] = "mkdir name \"/a\" mode 0755\nrmdir name \"/a\"\n";

	(void)state;
	for (size_t i = 0; i < sizeof text - 1; i++)
		sftp_log_take(&room.log, text + i, 1);
	assert_told("mkdir\t/a\t\t0\t0\tmode 0755\t\nrmdir\t/a\t\t0\t0\t\t\n");
}

static void
a_line_without_an_end_costs_no_memory_and_hides_no_other(void **state)
{
	char junk[1000];

	(void)state;
	memset(junk, 'j', sizeof junk);
	take("remove name \"");
	for (int i = 0; i < 10000; i++)
		sftp_log_take(&room.log, junk, sizeof junk);
	take("\"\nremove name \"/b\"\n");
	assert_told("remove\t/b\t\t0\t0\t\t\n");
}

static void
control_characters_and_long_names_do_not_reach_a_record(void **state)
{
	struct str rest;
	struct transfer t;

	(void)state;
	take("remove name \"/\x1b[2J\t\x7f\xff\"\nremove name \"");
	for (int i = 0; i < 4000; i++)
		take("n");
	take("\"\n");
	sftp_log_settle(&room.log);
	rest = buf_view(&room.told);
	assert_true(transfer_next(&rest, &t));
	assert_true(str_is(t.path, "/?[2J???"));
	assert_true(transfer_next(&rest, &t));
	assert_int_equal(t.path.len, TRANSFER_PATH_BYTES);
	assert_false(transfer_next(&rest, &t));
}

/* Whatever comes: no fault, and each line that is told is one that can be read. */
static void
random_bytes_and_bent_lines_do_no_harm(void **state)
{
	static const char *const good[] = {"open \"/a\" flags WRITE mode 0644\n",
					   "close \"/a\" bytes read 0 written 12\n",
					   "sent status Failure\n",
					   "rename old \"/a\" new \"/b\"\n",
					   "set \"/a\" owner 0 group 0\n",
					   "process_write: write \"/a\": No space\n"};
	uint32_t seed = 20260101;
	struct transfer t;

	(void)state;
	for (int i = 0; i < 60000; i++) {
		char line[80];
		const char *from = good[i % 6];
		size_t n = strlen(from);
		memcpy(line, from, n);
		for (int k = 0; k < i % 5; k++) {
			seed = seed * 1664525u + 1013904223u;
			line[(seed >> 8) % n] = (char)(seed >> 20);
			if (seed % 7 == 0)
				n = 1 + (seed >> 9) % n;
		}
		sftp_log_take(&room.log, line, n);
		if (i % 3)
			take("\n");
	}
	sftp_log_settle(&room.log);
	assert_true(room.n > 10000);
	struct str rest = buf_view(&room.told);
	unsigned read = 0;
	while (transfer_next(&rest, &t))
		read++;
	assert_int_equal(read, room.n);
	assert_int_equal(rest.len, 0);
}

static void
a_list_of_transfers_with_a_bent_line_ends_there(void **state)
{
	static const char *const bad[] = {"",
					  "op\tp\tt\t1\t2\tm\ts",
					  "op\tp\tt\t1\t2\tm\n",
					  "op\tp\tt\t1\t2\tm\ts\tx\n",
					  "\tp\tt\t1\t2\tm\ts\n",
					  "op\tp\tt\t-1\t2\tm\ts\n",
					  "op\tp\tt\t1\t\tm\ts\n",
					  "op\tp\x01\tt\t1\t2\tm\ts\n"};
	struct transfer t;

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		struct str rest = str_of(bad[i]);
		assert_false(transfer_next(&rest, &t));
	}
}

#define ROOM(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    ROOM(each_act_is_told_with_its_names_and_bytes),
	    ROOM(a_failure_is_that_of_the_request_before_it_alone),
	    ROOM(a_name_with_quotes_ends_where_its_line_can_end_last),
	    ROOM(what_has_no_known_form_is_told_to_nobody_but_kept_as_words),
	    ROOM(lines_may_come_in_any_pieces),
	    ROOM(a_line_without_an_end_costs_no_memory_and_hides_no_other),
	    ROOM(control_characters_and_long_names_do_not_reach_a_record),
	    ROOM(random_bytes_and_bent_lines_do_no_harm),
	    ROOM(a_list_of_transfers_with_a_bent_line_ends_there),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
