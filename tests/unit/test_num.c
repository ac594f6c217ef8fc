#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "snapshot/base/num.c"

static void
numbers_are_decimal_bounded_and_nothing_else(void **state)
{
	static const char *const bad[] = {"", "-1", "+1", " 1", "1 ", "0x10", "1e3", "18446744073709551616",
					  "99999999999999999999999", "1.5"};
	uint64_t n = 7;
	struct err err;

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		assert_int_equal(num_parse(str_of(bad[i]), 0, UINT64_MAX, &n, &err), -1);
	assert_int_equal(n, 7);
	assert_int_equal(num_parse(STR_LIT("18446744073709551615"), 0, UINT64_MAX, &n, &err), 0);
	assert_true(n == UINT64_MAX);
	assert_int_equal(num_parse(STR_LIT("5"), 6, 9, &n, &err), -1);
	assert_int_equal(num_parse(STR_LIT("9"), 6, 9, &n, &err), 0);
}

static void
durations_and_sizes_need_their_unit_and_do_not_overflow(void **state)
{
	uint64_t n;
	struct err err;

	(void)state;
	assert_int_equal(num_parse_duration(STR_LIT("1500ms"), &n, &err), 0);
	assert_true(n == 1500000000ull);
	assert_int_equal(num_parse_duration(STR_LIT("2h"), &n, &err), 0);
	assert_true(n == 7200000000000ull);
	assert_int_equal(num_parse_duration(STR_LIT("5"), &n, &err), -1);
	assert_int_equal(num_parse_duration((struct str){0}, &n, &err), -1);
	assert_int_equal(num_parse_duration(STR_LIT("99999999999d"), &n, &err), -1);
	assert_int_equal(num_parse_size(STR_LIT("64M"), &n, &err), 0);
	assert_true(n == 64 << 20);
	assert_int_equal(num_parse_size(STR_LIT("1024"), &n, &err), 0);
	assert_int_equal(num_parse_size(STR_LIT("99999999T"), &n, &err), -1);
	assert_int_equal(num_parse_size(STR_LIT("M"), &n, &err), -1);
}

static void
ids_have_their_form_and_differ(void **state)
{
	char a[ID_BYTES], b[ID_BYTES];

	(void)state;
	id_new("s_", a);
	id_new("s_", b);
	assert_true(id_is("s_", str_of(a)) && id_is("s_", str_of(b)));
	assert_string_not_equal(a, b);
	assert_false(id_is("c_", str_of(a)));
	assert_false(id_is("s_", STR_LIT("s_aaaaaaaaaaaaaaa1")));
	assert_false(id_is("s_", STR_LIT("s_aaaaaaaaaaaaaaa")));
	assert_false(id_is("s_", (struct str){"s_aaaaaaaaaaaaaaa\0", 18}));
}

static void
hex_goes_there_and_back(void **state)
{
	const uint8_t in[3] = {0, 0xab, 0xff};
	uint8_t out[3];
	char text[7];
	struct err err;

	(void)state;
	hex_format(in, 3, text);
	assert_string_equal(text, "00abff");
	assert_int_equal(hex_parse(str_of(text), out, 3, &err), 0);
	assert_memory_equal(in, out, 3);
	assert_int_equal(hex_parse(STR_LIT("00ABFF"), out, 3, &err), -1);
	assert_int_equal(hex_parse(STR_LIT("00abf"), out, 3, &err), -1);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(numbers_are_decimal_bounded_and_nothing_else),
	    cmocka_unit_test(durations_and_sizes_need_their_unit_and_do_not_overflow),
	    cmocka_unit_test(ids_have_their_form_and_differ),
	    cmocka_unit_test(hex_goes_there_and_back),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
