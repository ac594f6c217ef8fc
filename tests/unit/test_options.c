/* server/verbs/options.c */
#include "server/verbs/options.c"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#define ENV(text) ((struct str){text, sizeof(text)}) /* with the NUL that ends the last */

static void
all_of_them_are_taken_and_the_last_of_a_name_wins(void **state)
{
	struct call_options o;
	struct err err;

	(void)state;
	assert_int_equal(options_parse(ENV("LANG=C\0BERTH_TIMEOUT=1s\0BERTH_TIMEOUT=2m\0BERTH_CWD=/a b\0"
					   "BERTH_STDIN=null\0BERTH_WAIT=all\0BERTH_DETACH=1"),
				       &o, &err),
			 0);
	assert_int_equal(o.timeout_ns, 120ull * 1000000000);
	assert_string_equal(o.cwd, "/a b");
	assert_true(o.input == OPTION_INPUT_NULL && o.wait_all && o.detach);
	assert_int_equal(options_parse((struct str){NULL, 0}, &o, &err), 0);
	assert_true(o.timeout_ns == 0 && !o.cwd[0] && !o.input && !o.wait_all && !o.detach);
	assert_true(options_has_input(&o));
	assert_int_equal(options_parse(ENV("BERTH_STDIN=null\0BERTH_STDIN=keep\0BERTH_DETACH=1"), &o, &err), 0);
	assert_true(o.input == OPTION_INPUT_KEEP && options_has_input(&o));
	assert_int_equal(options_parse(ENV("BERTH_STDIN=keep\0BERTH_STDIN=null"), &o, &err), 0);
	assert_false(options_has_input(&o));
	assert_int_equal(options_parse(ENV("BERTH_DETACH=1"), &o, &err), 0);
	assert_false(options_has_input(&o));
}

static void
what_does_not_fit_is_named_and_changes_nothing_for_the_next(void **state)
{
	static const char *const bad[] = {
	    "BERTH_X=1",	"BERTH_=",	   "BERTH_TIMEOUT=",   "BERTH_TIMEOUT=1",
	    "BERTH_TIMEOUT=0s", "BERTH_TIMEOUT=1s ", "BERTH_CWD=",	 "BERTH_CWD=a/b",
	    "BERTH_STDIN=",	"BERTH_STDIN=nul", "BERTH_STDIN=null, keep",   "BERTH_WAIT=1",	 "BERTH_DETACH=0",
	    "BERTH_TIMEOUT=99999999999999999999h",
	};
	struct call_options o;

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		struct err err = {0};
		assert_int_equal(options_parse((struct str){bad[i], strlen(bad[i]) + 1}, &o, &err), -1);
		assert_int_equal(err.code, ERR_USAGE);
		assert_int_equal(strncmp(err.why, "BERTH_", 6), 0);
		assert_true(err.hint[0]);
	}
	static char longest[10 + 1 + OPTION_PATH_BYTES + 1];
	struct err err;
	memset(longest, 'x', sizeof longest - 1);
	memcpy(longest, "BERTH_CWD=/", 11);
	assert_int_equal(options_parse((struct str){longest, sizeof longest}, &o, &err), -1);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(all_of_them_are_taken_and_the_last_of_a_name_wins),
	    cmocka_unit_test(what_does_not_fit_is_named_and_changes_nothing_for_the_next),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
