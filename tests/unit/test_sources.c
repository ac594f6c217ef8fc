#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "server/manager/sources.c"

static bool
is_from(const char *list, const char *address)
{
	const struct source s = source_parse(str_of(address));
	struct err err;

	assert_int_equal(sources_check_patterns(str_of(list), &err), 0);
	return sources_match_patterns(str_of(list), &s);
}

static void
patterns_are_those_of_openssh(void **state)
{
	(void)state;
	assert_true(is_from("10.0.0.1", "10.0.0.1"));
	assert_false(is_from("10.0.0.1", "10.0.0.10"));
	assert_true(is_from("10.0.0.*", "10.0.0.10"));
	assert_true(is_from("10.0.?.1", "10.0.5.1"));
	assert_true(is_from("192.168.0.0/16,10.0.0.0/9", "10.127.0.1"));
	assert_false(is_from("10.0.0.0/9", "10.128.0.1"));
	assert_false(is_from("!10.1.0.0/16,10.0.0.0/8", "10.1.2.3"));
	assert_false(is_from("10.0.0.0/8,!10.1.*", "10.1.2.3"));
	assert_false(is_from("!10.1.2.3", "10.9.9.9")); /* nothing but what it is not */
	assert_true(is_from("0.0.0.0/0", "255.255.255.255"));
	assert_false(is_from("0.0.0.0/0", "::1"));
	assert_true(is_from("fd00::/8", "fdab::1"));
	assert_true(is_from("FE80::*", "fe80::1"));
	assert_true(is_from("::1", "0:0:0:0:0:0:0:1"));
	assert_true(is_from("127.0.0.1", "::ffff:127.0.0.1"));
	assert_true(is_from("10.0.0.1/32 , 10.0.0.2", "10.0.0.2"));
}

static void
an_unknown_address_matches_nothing(void **state)
{
	const struct source none = source_parse(STR_LIT("nowhere"));

	(void)state;
	assert_int_equal(none.bytes, 0);
	assert_false(sources_match_patterns(STR_LIT("*"), &none));
	assert_false(sources_match_patterns(STR_LIT("0.0.0.0/0,::/0"), &none));
	assert_false(sources_match(STR_LIT("0.0.0.0/0,::/0"), &none));
}

static void
lists_of_blocks_take_nothing_else(void **state)
{
	static const char *const bad[] = {"10.0.0.*", "!10.0.0.1", "10.0.0.1/33", "10.0.0.1/8",
					  "::/129",   "10.0.0",    "a.b",         "10.0.0.1,,::1"};
	struct err err;

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		assert_int_equal(sources_check(str_of(bad[i]), &err), -1);
	assert_int_equal(sources_check(STR_LIT("10.0.0.0/8, ::1,fd00::/8"), &err), 0);
	assert_int_equal(sources_check(STR_LIT(""), &err), 0);
	const struct source s = source_parse(STR_LIT("fd00::5"));
	assert_true(sources_match(STR_LIT("10.0.0.0/8, ::1,fd00::/8"), &s));
	assert_false(sources_match(STR_LIT(""), &s));
}

/* What is written as IPv6 has prefixes of IPv6. */
static void
mapped_addresses_are_those_of_ipv4(void **state)
{
	struct err err;

	(void)state;
	assert_true(is_from("::ffff:10.0.0.0/104", "10.9.9.9"));
	assert_true(is_from("10.0.0.0/8", "::ffff:10.9.9.9"));
	assert_true(is_from("::ffff:10.9.9.9", "10.9.9.9"));
	assert_false(is_from("10.0.0.0/8,!::ffff:10.9.9.9/128", "10.9.9.9"));
	assert_false(is_from("10.0.0.0/8,!10.9.9.9", "::ffff:10.9.9.9"));
	assert_int_equal(sources_check_patterns(STR_LIT("::ffff:10.0.0.0/8"), &err), -1);
	assert_int_equal(sources_check(STR_LIT("::ffff:0.0.0.0/0"), &err), -1);
}

/* It would match nobody: of a negation that is a right. */
static void
a_pattern_longer_than_any_address_is_refused(void **state)
{
	struct err err;

	(void)state;
	assert_int_equal(
	    sources_check_patterns(
		STR_LIT("10.0.0.*,!10.0.0.**************************************1"), &err),
	    -1);
}

static void
a_party_has_64_bits(void **state)
{
	const struct source a = source_parse(STR_LIT("2001:db8:1:2:3:4:5:6"));
	const struct source p = source_party(&a);

	(void)state;
	assert_string_equal(p.text, "2001:db8:1:2::");
	const struct source b = source_parse(STR_LIT("10.1.2.3"));
	assert_string_equal(source_party(&b).text, "10.1.2.3");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(patterns_are_those_of_openssh),
	    cmocka_unit_test(an_unknown_address_matches_nothing),
	    cmocka_unit_test(lists_of_blocks_take_nothing_else),
	    cmocka_unit_test(mapped_addresses_are_those_of_ipv4),
	    cmocka_unit_test(a_pattern_longer_than_any_address_is_refused),
	    cmocka_unit_test(a_party_has_64_bits),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
