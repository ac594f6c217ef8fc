#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "server/manager/key_line.c"

#define KEY "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAcXHj6+zPP1ZJQ3vT3PB4eFCl7v2cHwGN1yDC3cNhBm"

static int
parse_line(const char *line, struct key *out)
{
	struct err err;
	return key_line_parse(str_of(line), out, &err);
}

static void
a_plain_key_is_an_orchestrators(void **state)
{
	struct key k;

	(void)state;
	assert_int_equal(parse_line(KEY " me@here\r\n", &k), 1);
	assert_int_equal(k.role, PRINCIPAL_ORCHESTRATOR);
	assert_true(scope_has(&k.scope, STR_LIT("anything")));
	assert_int_equal(strncmp(k.principal, "SHA256:", 7), 0);
	assert_non_null(strstr(k.principal, " me@here"));
	assert_int_equal(strlen(k.principal), 7 + 43 + 8);
	assert_int_equal(k.allow.flags, ALLOW_ALL);
	assert_false(k.authority);
	assert_int_equal(k.until_s, 0);
	key_done(&k);
}

static void
role_and_sessions_are_taken(void **state)
{
	struct key k;

	(void)state;
	assert_int_equal(parse_line("role=\"developer\",sessions=\"a-*,b\",no-pty " KEY, &k), 1);
	assert_int_equal(k.role, PRINCIPAL_DEVELOPER);
	assert_true(scope_has(&k.scope, STR_LIT("a-1")));
	assert_false(scope_has(&k.scope, STR_LIT("c")));
	assert_int_equal(k.allow.flags, ALLOW_ALL & ~ALLOW_PTY);
	key_done(&k);
}

static void
options_hold_in_the_order_they_stand(void **state)
{
	struct key k;

	(void)state;
	assert_int_equal(parse_line("restrict,Pty " KEY, &k), 1);
	assert_int_equal(k.allow.flags, ALLOW_PTY);
	key_done(&k);
	assert_int_equal(parse_line("pty,restrict " KEY, &k), 1);
	assert_int_equal(k.allow.flags, 0);
	key_done(&k);
	assert_int_equal(parse_line("NO-port-forwarding,no-agent-forwarding,no-user-rc " KEY, &k),
			 1);
	assert_int_equal(k.allow.flags, ALLOW_PTY | ALLOW_X11_FORWARDING);
	key_done(&k);
}

static void
forwarding_is_permitted_by_host_and_port(void **state)
{
	struct key k;

	(void)state;
	assert_int_equal(
	    parse_line("permitopen=\"db:5432\",permitopen=\"[::1]:*\",permitlisten=\"8080\","
		       "permitlisten=\"local*:*\" " KEY,
		       &k),
	    1);
	assert_true(allowances_may_open(&k.allow, STR_LIT("db"), 5432));
	assert_true(allowances_may_open(&k.allow, STR_LIT("::1"), 1));
	assert_false(allowances_may_open(&k.allow, STR_LIT("db"), 5433));
	assert_false(allowances_may_open(&k.allow, STR_LIT("dbx"), 5432));
	assert_true(allowances_may_listen(&k.allow, STR_LIT("0.0.0.0"), 8080));
	assert_true(allowances_may_listen(&k.allow, STR_LIT("localhost"), 0));
	assert_false(allowances_may_listen(&k.allow, STR_LIT("0.0.0.0"), 0));
	k.allow.flags &= ~(unsigned)ALLOW_PORT_FORWARDING;
	assert_false(allowances_may_open(&k.allow, STR_LIT("db"), 5432));
	key_done(&k);
	assert_int_equal(parse_line(KEY, &k), 1);
	assert_true(allowances_may_open(&k.allow, STR_LIT("anything"), 1));
	assert_true(allowances_may_listen(&k.allow, STR_LIT(""), 0));
	key_done(&k);
}

static uint64_t
time_of(const char *text)
{
	uint64_t s = 0;
	struct err err;
	return key_line_time(str_of(text), &s, &err) < 0 ? 0 : s;
}

static void
a_time_is_one_that_there_is(void **state)
{
	static const char *const bad[] = {"2026",
					  "20260230Z",
					  "20261301Z",
					  "202601012500Z",
					  "2026010112345Z",
					  "20260101+01:00",
					  "20260101 ",
					  "",
					  "Z",
					  "2026010a"};

	(void)state;
	assert_int_equal(time_of("20260101Z"), 1767225600);
	assert_int_equal(time_of("202601010102Z"), 1767225600 + 3720);
	assert_int_equal(time_of("20260101010203Z"), 1767225600 + 3723);
	setenv("TZ", "UTC-2", 1);
	tzset();
	assert_int_equal(time_of("20260101"), 1767225600 - 7200);
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		assert_int_equal(time_of(bad[i]), 0);
}

static void
the_first_expiry_counts_and_values_may_hold_quotes(void **state)
{
	struct key k;

	(void)state;
	assert_int_equal(parse_line("expiry-time=\"20270101Z\",expiry-time=\"20260101Z\" " KEY, &k),
			 1);
	assert_int_equal(k.until_s, 1767225600);
	key_done(&k);
	assert_int_equal(parse_line("cert-authority,principals=\"a \\\" b,c\" " KEY, &k), 1);
	assert_true(k.authority);
	assert_string_equal(k.principals, "a \" b,c");
	key_done(&k);
}

static void
what_would_widen_a_right_is_refused(void **state)
{
	static const char
	    *const bad[] =
		{
		    "role=\"god\" " KEY,
		    "role=\"developer\",role=\"operator\" " KEY,
		    "command=\"true\" " KEY,
		    "environment=\"A=b\" " KEY,
		    "tunnel=\"0\" " KEY,
		    "verify-required " KEY,
		    "role=\"operator\"x " KEY,
		    "role=operator " KEY,
		    "role=\"operator\", " KEY,
		    ",role=\"operator\" " KEY,
		    "role=\"operator\",,pty " KEY,
		    "role=\"operator " KEY,
		    "role " KEY,
		    "pty=\"yes\" " KEY,
		    "sessions=\"\" " KEY,
		    "sessions=\"a\",sessions=\"*\" " KEY,
		    "from=\"host.example\" " KEY,
		    "from=\"10.0.0.1/8\" " KEY,
		    "from=\"10.0.0.0/33\" " KEY,
		    "from=\"\" " KEY,
		    "from=\"10.0.0.1,\" " KEY,
		    "from=\"10.0.0.1\",from=\"*\" " KEY,
		    "expiry-time=\"soon\" " KEY,
		    "expiry-time=\"19700101Z\" " KEY, /* 0 is our word for: no end */
		    "principals=\"a\" " KEY,
		    "permitopen=\"db\" " KEY,
		    "permitopen=\"db:0\" " KEY,
		    "permitopen=\"db:1,x:2\" " KEY,
		    "permitopen=\"::1:22\" " KEY,
		    "permitlisten=\"x\" " KEY,
		    "ssh-dss AAAAB3NzaC1kc3MAAACBAO",
		    "ssh-ed25519 !!!!notbase64!!!!!!!",
		    "ssh-ed25519 "
		    "AAAAC3NzaC1lZDI1NTE5AAAAIAcXHj6+zPP1ZJQ3vT3PB4eFCl7v2cHwGN1yDC3cNhA", /* short
											    */
		    "ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIAcXHj6+zPP1ZJQ3vT3PB4eFCl7v2cHwGN1yDC3cNhBm",
		    KEY "AAAA", /* more behind it */
		    "ssh-ed25519",
		    "garbage",
		};
	struct key k;

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		if (parse_line(bad[i], &k) != -1)
			fail_msg("taken: %s", bad[i]);
	assert_int_equal(parse_line("", &k), 0);
	assert_int_equal(parse_line("   # a comment", &k), 0);
}

static unsigned
next_random(unsigned *seed)
{
	*seed = *seed * 1664525 + 1013904223;
	return *seed >> 8;
}

/* Fuzzed: bytes changed, cut, doubled. Whatever comes out is a key with a line's rights or none. */
static void
a_hundred_thousand_bent_lines_do_no_harm(void **state)
{
	static const char whole[] = "role=\"developer\",sessions=\"a-*,b\",restrict,pty,from=\"10."
				    "0.0.0/8,!10.1.*,fd00::/8\","
				    "expiry-time=\"20300101Z\",permitopen=\"h:1\",permitlisten=\"[:"
				    ":1]:8080\",cert-authority,"
				    "principals=\"x,\\\"y\" " KEY " comment";
	unsigned seed = 7, taken = 0;

	(void)state;
	for (int i = 0; i < 100000; i++) {
		char line[2 * sizeof whole];
		struct err err;
		size_t n = sizeof whole - 1;
		struct key k;
		memcpy(line, whole, n);
		for (unsigned times = next_random(&seed) % 4; times > 0; times--)
			line[next_random(&seed) % n] = (char)next_random(&seed);
		if (next_random(&seed) % 4 == 0)
			n = next_random(&seed) % n;
		if (n && next_random(&seed) % 8 == 0) {
			memcpy(line + n, line, n);
			n *= 2;
		}
		char *exact = xstrndup((struct str){line, n}); /* its end is watched */
		if (key_line_parse((struct str){exact, n}, &k, &err) == 1) {
			const struct source s = source_parse(STR_LIT("10.2.3.4"));
			taken++;
			if (k.from)
				sources_match_patterns(str_of(k.from), &s);
			allowances_may_listen(&k.allow, STR_LIT("::1"), 8080);
			key_done(&k);
		}
		free(exact);
	}
	assert_true(taken > 1000);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_plain_key_is_an_orchestrators),
	    cmocka_unit_test(role_and_sessions_are_taken),
	    cmocka_unit_test(options_hold_in_the_order_they_stand),
	    cmocka_unit_test(forwarding_is_permitted_by_host_and_port),
	    cmocka_unit_test(a_time_is_one_that_there_is),
	    cmocka_unit_test(the_first_expiry_counts_and_values_may_hold_quotes),
	    cmocka_unit_test(what_would_widen_a_right_is_refused),
	    cmocka_unit_test(a_hundred_thousand_bent_lines_do_no_harm),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
