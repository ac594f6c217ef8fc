/* Values of limits as text, and who may choose which (limits.h). */
#include "server/manager/limits.c"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static void
values_are_read_and_written_alike(void **state)
{
	static const struct {
		enum limit limit;
		const char *text, *again;
		uint64_t value;
	} good[] = {
	    {LIMIT_CPU, "2", "2", 200},
	    {LIMIT_CPU, "1.5", "1.50", 150},
	    {LIMIT_CPU, "0.25", "0.25", 25},
	    {LIMIT_CPU, "0.05", "0.05", 5},
	    {LIMIT_MEMORY, "512M", "512M", 512ull << 20},
	    {LIMIT_MEMORY, "1024M", "1G", 1ull << 30},
	    {LIMIT_MEMORY, "none", "none", 0},
	    {LIMIT_PIDS, "64", "64", 64},
	    {LIMIT_WALL, "90s", "90s", 90 * NS_PER_S},
	    {LIMIT_WALL, "120s", "2m", 120 * NS_PER_S},
	    {LIMIT_WALL, "250ms", "250ms", 250 * NS_PER_MS},
	};
	static const struct {
		enum limit limit;
		const char *text;
	} bad[] = {
	    {LIMIT_CPU, ""},	  {LIMIT_CPU, "."},	    {LIMIT_CPU, "1."},
	    {LIMIT_CPU, "1.234"}, {LIMIT_CPU, "0.00"},	    {LIMIT_CPU, "-1"},
	    {LIMIT_CPU, "5000"},  {LIMIT_MEMORY, "1"},	    {LIMIT_MEMORY, "16777216T"},
	    {LIMIT_PIDS, "7"},	  {LIMIT_PIDS, "64 "},	    {LIMIT_PIDS, "4194305"},
	    {LIMIT_WALL, "9"},	  {LIMIT_FILES, "none"},    {LIMIT_CALLS, "4001"},
	    {LIMIT_TMP, "none"},  {LIMIT_MEMORY, "default"},
	};
	char text[LIMIT_TEXT_BYTES];
	struct err err;

	(void)state;
	for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
		uint64_t value = 99;
		assert_int_equal(limit_parse(good[i].limit, str_of(good[i].text), &value, &err), 0);
		assert_int_equal(value, good[i].value);
		limit_format(good[i].limit, value, text);
		assert_string_equal(text, good[i].again);
	}
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		uint64_t value = 99;
		assert_int_equal(limit_parse(bad[i].limit, str_of(bad[i].text), &value, &err), -1);
		assert_int_equal(err.code, ERR_USAGE);
		assert_int_equal(value, 99);
	}
}

/* As `who` sets pids; the answer's code. */
static int
set(struct limits_set *own, const char *text, bool by_operator)
{
	static const struct limits standard = {.at = {[LIMIT_PIDS] = 1000}};
	struct err err = {.code = ERR_NONE};

	(void)!limits_change(&standard, own, LIMIT_PIDS, str_of(text), by_operator, &err);
	return err.code;
}

static void
an_orchestrator_stays_below_what_an_operator_chose(void **state)
{
	static const struct limits standard = {.at = {[LIMIT_PIDS] = 1000}};
	struct limits_set own = {0};

	(void)state;
	assert_int_equal(set(&own, "1001", false), ERR_DENIED);
	assert_int_equal(limits_of(&standard, &own).at[LIMIT_PIDS], 1000);
	assert_int_equal(set(&own, "none", false), ERR_DENIED);
	assert_int_equal(set(&own, "500", false), ERR_NONE);
	assert_int_equal(set(&own, "1000", false), ERR_NONE); /* its own choice is no ceiling */
	assert_int_equal(set(&own, "2000", true), ERR_NONE);
	assert_int_equal(set(&own, "100", false), ERR_NONE);
	assert_int_equal(set(&own, "2001", false), ERR_DENIED);
	assert_int_equal(set(&own, "default", false), ERR_NONE);
	assert_int_equal(limits_of(&standard, &own).at[LIMIT_PIDS], 2000);
	assert_int_equal(set(&own, "none", true), ERR_NONE);
	assert_int_equal(set(&own, "50", false), ERR_NONE);
	assert_int_equal(set(&own, "none", false), ERR_NONE);
	assert_int_equal(limits_of(&standard, &own).at[LIMIT_PIDS], 0);
	assert_int_equal(set(&own, "default", true), ERR_NONE);
	assert_int_equal(limits_of(&standard, &own).at[LIMIT_PIDS], 1000);
	assert_int_equal(set(&own, "1001", false), ERR_DENIED);
}

static void
what_only_an_operator_gives_does_not_come_along(void **state)
{
	static const struct limits standard = {.at = {[LIMIT_PIDS] = 1000}};
	auto_buf words = BUF_MAX(4096);
	struct limits_set own = {0};

	(void)state;
	assert_int_equal(set(&own, "500", true), ERR_NONE); /* below the node's: it binds, and comes along */
	limits_plain(&standard, &own, &words);
	assert_int_equal(words.len, 0);
	assert_int_equal(set(&own, "501", false), ERR_DENIED);
	assert_int_equal(set(&own, "2000", true), ERR_NONE);
	assert_int_equal(set(&own, "700", false), ERR_NONE); /* its own choice stays, the ceiling does not */
	limits_plain(&standard, &own, &words);
	assert_int_equal(words.len, 0);
	assert_int_equal(limits_of(&standard, &own).at[LIMIT_PIDS], 700);
	assert_int_equal(set(&own, "1001", false), ERR_DENIED);
	assert_int_equal(set(&own, "none", true), ERR_NONE);
	limits_plain(&standard, &own, &words);
	assert_string_equal(buf_cstr(&words), "pids none");
	assert_int_equal(limits_of(&standard, &own).at[LIMIT_PIDS], 1000);
	assert_int_equal(set(&own, "1001", false), ERR_DENIED);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(values_are_read_and_written_alike),
	    cmocka_unit_test(an_orchestrator_stays_below_what_an_operator_chose),
	    cmocka_unit_test(what_only_an_operator_gives_does_not_come_along),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
