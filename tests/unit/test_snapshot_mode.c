/* When snapshots are taken: words and back. */
#include "server/manager/snapshot_mode.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void
what_is_parsed_is_formatted_again(void **state)
{
	static const char *const same[] = {"pause",       "call",           "interval:10m",
					   "interval:1s", "interval:90s",   "interval:2h",
					   "interval:1d", "interval:1500ms"};
	char text[SNAPSHOT_MODE_BYTES];
	struct snapshot_mode m;
	struct err err;

	(void)state;
	for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
		assert_int_equal(snapshot_mode_parse(str_of(same[i]), false, &m, &err), 0);
		snapshot_mode_format(&m, text);
		assert_string_equal(text, same[i]);
	}
	assert_int_equal(snapshot_mode_parse(STR_LIT("default"), true, &m, &err), 0);
	assert_int_equal(m.when, SNAPSHOT_STANDARD);
}

static void
what_is_none_is_refused_with_a_hint(void **state)
{
	static const char *const wrong[] = {"",
					    "calls",
					    "interval",
					    "interval:",
					    "interval:10",
					    "interval:0s",
					    "interval:999ms",
					    "default"};
	struct snapshot_mode m = {SNAPSHOT_CALL, 7};
	struct err err;

	(void)state;
	for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
		assert_int_equal(snapshot_mode_parse(str_of(wrong[i]), false, &m, &err), -1);
		assert_int_equal(err.code, ERR_USAGE);
		assert_true(err.hint[0] != '\0');
	}
	assert_int_equal(m.interval_ns, 7);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(what_is_parsed_is_formatted_again),
	    cmocka_unit_test(what_is_none_is_refused_with_a_hint),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
