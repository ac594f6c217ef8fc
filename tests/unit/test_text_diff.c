/* text_diff.c: patch(1) makes of the one text the other; equal texts say nothing; bounds hold. */
#include "snapshot/text_diff.c"

#include "view_room.h"

static unsigned long seed;

static unsigned
dice(unsigned n)
{
	seed = seed * 6364136223846793005ul + 1442695040888963407ul;
	return (unsigned)(seed >> 33) % n;
}

static void
must_patch(struct str a, struct str b)
{
	char command[1024];
	struct err err;
	auto_buf out = BUF_MAX(64 << 20);

	buf_text(&out, "--- a\n+++ b\n");
	must(text_diff(a, b, &out, &err), &err);
	put_file(room.dir, "a", a.at ? a.at : "", a.len);
	put_file(room.dir, "b", b.at ? b.at : "", b.len);
	put_file(room.dir, "p", out.at, out.len);
	if (str_equal(a, b)) {
		assert_int_equal(out.len, 12);
		return;
	}
	snprintf(command, sizeof command,
		 "cd %s && rm -f c && patch -s --binary -o c a p && touch c && cmp b c", room.path);
	shell(command);
}

static void
put_random(struct buf *out, unsigned lines)
{
	static const char *const words[] = {"x\n", "y\n", "z\n", "\n", "}\n", "long line\n"};

	buf_clear(out);
	for (; lines; lines--)
		buf_text(out, words[dice(6)]);
	if (dice(3) == 0)
		buf_text(out, "no newline");
}

static void
test_patch_makes_the_other(void **state)
{
	auto_buf a = BUF_MAX(1 << 20), b = BUF_MAX(1 << 20);

	(void)state;
	seed = (unsigned long)getpid();
	print_message("seed %lu\n", seed);
	for (int i = 0; i < 60; i++) {
		put_random(&a, 1 + dice(40));
		put_random(&b, 1 + dice(40));
		must_patch(buf_view(&a), buf_view(&b));
	}
	must_patch(STR_LIT(""), STR_LIT("one\ntwo\n"));
	must_patch(STR_LIT("same\n"), STR_LIT("same\n"));
	must_patch(STR_LIT("same\n"), STR_LIT("same"));
}

static void
test_it_is_what_diff_says_of_one_change(void **state)
{
	struct err err;
	auto_buf out = BUF_MAX(65536);

	(void)state;
	must(text_diff(STR_LIT("1\n2\n3\n4\n5\n6\n7\n8\n9\n"),
		       STR_LIT("1\n2\n3\n4\nfive\n6\n7\n8\n9\n"), &out, &err),
	     &err);
	assert_string_equal(buf_cstr(&out), "@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n");
	buf_clear(&out);
	must(text_diff(STR_LIT(""), STR_LIT("x\n"), &out, &err), &err);
	assert_string_equal(buf_cstr(&out), "@@ -0,0 +1 @@\n+x\n");
	buf_clear(&out);
	must(text_diff(STR_LIT("x"), STR_LIT("x\n"), &out, &err), &err);
	assert_string_equal(buf_cstr(&out), "@@ -1 +1 @@\n-x\n\\ No newline at end of file\n+x\n");
}

static void
test_texts_that_have_nothing_in_common(void **state)
{
	auto_buf a = BUF_MAX(8 << 20), b = BUF_MAX(8 << 20);

	(void)state;
	for (int i = 0; i < 50000; i++) {
		buf_fmt(&a, "a %d\n", i);
		buf_fmt(&b, "b %d\n", i);
		if (i == 20000) {
			buf_text(&a, "common\n");
			buf_text(&b, "common\n");
		}
	}
	must_patch(buf_view(&a), buf_view(&b));
	assert_false(text_diff_is_text((struct str){"a\0b", 3}));
	assert_true(text_diff_is_text((struct str){NULL, 0}));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_patch_makes_the_other, room_open, room_close),
	    cmocka_unit_test_setup_teardown(test_it_is_what_diff_says_of_one_change, room_open,
					    room_close),
	    cmocka_unit_test_setup_teardown(test_texts_that_have_nothing_in_common, room_open,
					    room_close),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
