#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "snapshot/base/buf.c"

static void
a_buf_that_is_full_says_so_once_and_changes_nothing_more(void **state)
{
	auto_buf b = BUF_MAX(8);

	(void)state;
	buf_text(&b, "12345");
	assert_false(buf_bad(&b));
	buf_text(&b, "6789");
	assert_true(buf_bad(&b));
	buf_text(&b, "x");
	assert_int_equal(b.len, 5);
	assert_string_equal(buf_cstr(&b), "12345");
	buf_clear(&b);
	buf_fmt(&b, "%d", 12345678);
	assert_false(buf_bad(&b));
	assert_string_equal(buf_cstr(&b), "12345678");
}

static void
str_cut_gives_every_part_and_the_empty_last_one(void **state)
{
	struct str rest = STR_LIT("a,,b,"), part;
	const char *const want[] = {"a", "", "b", ""};

	(void)state;
	for (int i = 0; i < 4; i++) {
		assert_true(str_cut(&rest, ',', &part));
		assert_true(str_is(part, want[i]));
	}
	assert_false(str_cut(&rest, ',', &part));
}

static void
globs_match_whole_names(void **state)
{
	static const struct {
		const char *glob, *name;
		bool matches;
	} rows[] = {
	    {"*", "", true},	       {"*", "any", true},	 {"a*", "abc", true},
	    {"a*", "ba", false},       {"*-test", "x-test", true}, {"*-test", "x-test2", false},
	    {"a?c", "abc", true},      {"a?c", "ac", false},	 {"*a*b*", "xxaxxbxx", true},
	    {"*a*b*", "xxbxxa", false}, {"", "", true},		 {"", "a", false},
	    {"***", "a", true},
	};

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
		assert_int_equal(str_glob(str_of(rows[i].glob), str_of(rows[i].name)), rows[i].matches);
}

static void
str_copy_refuses_what_does_not_fit_and_nuls(void **state)
{
	char out[4];
	struct err err;

	(void)state;
	assert_int_equal(str_copy(STR_LIT("abc"), out, sizeof out, &err), 0);
	assert_int_equal(str_copy(STR_LIT("abcd"), out, sizeof out, &err), -1);
	assert_int_equal(err.code, ERR_USAGE);
	assert_int_equal(str_copy(STR_LIT("a\0b"), out, sizeof out, &err), -1);
	assert_string_equal(out, "abc");
}

static void
str_trim_takes_the_spaces_around_and_none_within(void **state)
{
	(void)state;
	assert_true(str_is(str_trim(STR_LIT("  a b ")), "a b"));
	assert_true(str_is(str_trim(STR_LIT("a")), "a"));
	assert_int_equal(str_trim(STR_LIT("   ")).len, 0);
	assert_int_equal(str_trim((struct str){NULL, 0}).len, 0);
}

static void
str_hide_controls_leaves_nothing_that_a_terminal_heeds(void **state)
{
	char text[] = "a\x1b[1m\x9b \xc2\x9b"
		      "2J\x7f\n\t\0\xc3\x9b\xc2\xa0\xc2";
	char line[] = "x\ny";

	(void)state;
	str_hide_controls(text, sizeof text - 1, "\n\t", '?');
	assert_memory_equal(text, "a?[1m\x9b ??2J?\n\t?\xc3\x9b\xc2\xa0\xc2", sizeof text);
	str_hide_controls(line, sizeof line - 1, "", ' ');
	assert_string_equal(line, "x y");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_buf_that_is_full_says_so_once_and_changes_nothing_more),
	    cmocka_unit_test(str_cut_gives_every_part_and_the_empty_last_one),
	    cmocka_unit_test(globs_match_whole_names),
	    cmocka_unit_test(str_trim_takes_the_spaces_around_and_none_within),
	    cmocka_unit_test(str_copy_refuses_what_does_not_fit_and_nuls),
	    cmocka_unit_test(str_hide_controls_leaves_nothing_that_a_terminal_heeds),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
