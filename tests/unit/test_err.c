#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>

#include "snapshot/base/err.c"

static void
a_failure_reads_from_intent_to_cause(void **state)
{
	struct err err;
	char line[1024];

	(void)state;
	assert_int_equal(err_sys(&err, ENOSPC, "sync tmp.%d", 7), -1);
	err_add(&err, "finish %s", "blob");
	err_what(&err, "snapshot %s", "demo");
	err_what(&err, "never seen");
	assert_int_equal(err.code, ERR_NO_SPACE);
	assert_int_equal(err_exit(err.code), 73);
	err_line(&err, line, sizeof line);
	assert_string_equal(line, "berth: snapshot demo: finish blob: sync tmp.7: no space left on device "
				  "(free space on the server, then try again)");
	err_set(&err, ERR_CORRUPT, "two\nlines\x1b[31m");
	err_line(&err, line, sizeof line);
	assert_null(strchr(line, '\n'));
	assert_null(strchr(line, '\x1b'));
	err_hint(&err, "run gc");
	err_line(&err, line, sizeof line);
	assert_non_null(strstr(line, "(run gc)"));
}

static void
what_does_not_fit_is_cut_and_marked(void **state)
{
	struct err err;
	char text[2000], line[64];

	(void)state;
	memset(text, 'x', sizeof text - 1);
	text[sizeof text - 1] = '\0';
	err_set(&err, ERR_INTERNAL, "%s", text);
	assert_int_equal(strlen(err.why), sizeof err.why - 1);
	assert_string_equal(err.why + sizeof err.why - 4, "\xe2\x80\xa6");
	for (int i = 0; i < 10; i++)
		err_add(&err, "level %d", i);
	assert_true(strlen(err.why) < sizeof err.why);
	assert_int_equal(strncmp(err.why, "level 9: level 8: ", 18), 0);
	assert_true(err_line(&err, line, sizeof line) < sizeof line);
}

static void
every_code_has_an_exit_a_name_and_a_hint(void **state)
{
	(void)state;
	for (int c = ERR_NONE + 1; c < ERR_CODES; c++) {
		assert_true(err_exit((enum err_code)c) >= 64);
		assert_true(err_json((enum err_code)c)[0] != '\0');
		assert_true(err_default_hint((enum err_code)c)[0] != '\0');
		assert_int_equal(err_from_number((unsigned long)c), c);
	}
	assert_int_equal(err_from_number(0), ERR_INTERNAL);
	assert_int_equal(err_from_number(ERR_CODES), ERR_INTERNAL);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_failure_reads_from_intent_to_cause),
	    cmocka_unit_test(what_does_not_fit_is_cut_and_marked),
	    cmocka_unit_test(every_code_has_an_exit_a_name_and_a_hint),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
