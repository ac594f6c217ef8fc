/* Retention: a table of cases, each a rule, a list of ages, and which of them stay. */
#include "server/manager/retention.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#define H        3600ull
#define D        (24 * H)
#define MAX_ROWS 40
/* Thursday, 2026-01-15 12:30:00 UTC */
#define NOW_S 1768480200ull

struct expectation {
	const char *rule;
	uint64_t age_s[MAX_ROWS]; /* 0 ends the list, so now is 1 */
	const char *stays;        /* a letter each: + stays, - goes */
};

static const struct expectation table[] = {
    {"all", {1, 5 * D, 900 * D}, "+++"},
    {"last=2", {1, 10, 20, 30}, "++--"},
    {"last=2", {30, 20, 10, 1}, "--++"}, /* whatever their order */
    {"last=0", {1, 10}, "++"},           /* the same as all */
    {"last=9", {1, 10}, "++"},
    {"hourly=2", {1, 60, 20 * 60, 31 * 60, 50 * 60, 2 * H, 3 * H}, "+--+---"},
    {"hourly=2", {5 * H, 6 * H, 7 * H}, "++-"}, /* hours without one do not count */
    {"daily=3", {1, H, 13 * H, 14 * H, 37 * H, 90 * H}, "+-+-+-"},
    {"weekly=2", {1, 3 * D, 4 * D, 5 * D, 11 * D, 12 * D}, "+-+---"},
    {"last=1 daily=2", {1, 2, 20 * H, 21 * H, 50 * H}, "+-+--"},
    {"last=3,hourly=1", {1, 2, 3, 4}, "+++-"},
    {"ttl=1d", {1, H, 25 * H, 26 * H}, "++--"},
    {"ttl=1d", {25 * H, 26 * H}, "+-"}, /* the newest stays */
    {"last=3 ttl=1h", {1, 2 * H, 3 * H}, "+--"},
    {"last=1 ttl=10d", {1, 2, 11 * D}, "+--"},
};

static void
rules_keep_what_they_say(void **state)
{
	(void)state;
	for (size_t c = 0; c < sizeof table / sizeof *table; c++) {
		struct retention_row rows[MAX_ROWS] = {{0}};
		struct retention r;
		struct err err;
		char got[MAX_ROWS + 1] = "";
		size_t n = 0;
		assert_int_equal(retention_parse(str_of(table[c].rule), &r, &err), 0);
		for (; table[c].age_s[n]; n++)
			rows[n].created_ns = (NOW_S - table[c].age_s[n]) * NS_PER_S;
		retention_choose(&r, rows, n, NOW_S * NS_PER_S);
		for (size_t i = 0; i < n; i++)
			got[i] = rows[i].goes ? '-' : '+';
		if (strcmp(got, table[c].stays) != 0)
			fail_msg("%s: %s, not %s", table[c].rule, got, table[c].stays);
	}
}

static void
what_is_held_stays_and_ends_of_their_own_count(void **state)
{
	const uint64_t now = NOW_S * NS_PER_S;
	struct retention_row rows[] = {
	    {.created_ns = now - 9 * NS_PER_S, .held = true},
	    {.created_ns = now - 8 * NS_PER_S},
	    {.created_ns = now - 7 * NS_PER_S, .expires_ns = now + 1},
	    {.created_ns = now - 6 * NS_PER_S, .expires_ns = now},
	    {.created_ns = now - 5 * NS_PER_S, .expires_ns = now - 1, .held = true},
	    {.created_ns = now - 4 * NS_PER_S},
	    {.created_ns = now - 3 * NS_PER_S,
	     .expires_ns = now - 1}, /* the newest: its own end counts */
	};
	const bool goes[] = {false, true, false, true, false, true, true};
	const struct retention r = {.last = 1};

	(void)state;
	retention_choose(&r, rows, sizeof rows / sizeof *rows, now);
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
		assert_int_equal(rows[i].goes, goes[i]);
}

static void
rows_of_one_instant_and_of_the_future_are_judged(void **state)
{
	const uint64_t now = NOW_S * NS_PER_S;
	struct retention_row rows[] = {
	    {.created_ns = now}, {.created_ns = now}, {.created_ns = now + D * NS_PER_S}};
	const struct retention r = {.last = 2, .ttl_ns = 1};

	(void)state;
	retention_choose(&r, rows, 3, now);
	assert_true(rows[0].goes);
	assert_false(rows[1].goes);
	assert_false(rows[2].goes);
	retention_choose(&r, rows, 0, now);
}

static void
text_goes_there_and_back(void **state)
{
	static const char *const good[] = {"all", "last=3",
					   "last=20 hourly=24 daily=7 weekly=8 ttl=90d", "ttl=90m"};
	static const char *const bad[] = {
	    "",          "last",  "last=",      "last=x",       "last=-1",
	    "monthly=2", "ttl=3", "all last=2", "last=99999999"};
	struct retention r;
	struct err err;
	char text[RETENTION_TEXT_BYTES];

	(void)state;
	for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
		assert_int_equal(retention_parse(str_of(good[i]), &r, &err), 0);
		retention_format(&r, text);
		assert_string_equal(text, good[i]);
	}
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		assert_int_equal(retention_parse(str_of(bad[i]), &r, &err), -1);
		assert_int_equal(err.code, ERR_USAGE);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(rules_keep_what_they_say),
	    cmocka_unit_test(what_is_held_stays_and_ends_of_their_own_count),
	    cmocka_unit_test(rows_of_one_instant_and_of_the_future_are_judged),
	    cmocka_unit_test(text_goes_there_and_back),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
