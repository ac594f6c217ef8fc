#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "server/manager/keys.c"

#define KEY "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAcXHj6+zPP1ZJQ3vT3PB4eFCl7v2cHwGN1yDC3cNhBm"

static int
parse(const char *line, struct key *out)
{
	struct err err;
	return keys_parse_line(str_of(line), out, &err);
}

static void
a_plain_key_is_an_orchestrators(void **state)
{
	struct key k;

	(void)state;
	assert_int_equal(parse(KEY " me@here\r\n", &k), 1);
	assert_int_equal(k.role, PRINCIPAL_ORCHESTRATOR);
	assert_true(scope_has(&k.scope, STR_LIT("anything")));
	assert_int_equal(strncmp(k.principal, "SHA256:", 7), 0);
	assert_non_null(strstr(k.principal, " me@here"));
	assert_int_equal(strlen(k.principal), 7 + 43 + 8);
	free(k.blob);
}

static void
role_and_sessions_are_taken(void **state)
{
	struct key k;

	(void)state;
	assert_int_equal(parse("role=\"developer\",sessions=\"a-*,b\",no-pty " KEY, &k), 1);
	assert_int_equal(k.role, PRINCIPAL_DEVELOPER);
	assert_true(scope_has(&k.scope, STR_LIT("a-1")));
	assert_false(scope_has(&k.scope, STR_LIT("c")));
	free(k.blob);
}

static void
what_would_widen_a_right_is_refused(void **state)
{
	static const char *const bad[] = {
	    "from=\"10.0.0.1\" " KEY,	   "role=\"god\" " KEY,	 "expiry-time=\"20200101\" " KEY,
	    "command=\"true\" " KEY,	   "restrict " KEY,		 "cert-authority " KEY,
	    "role=\"operator\"x " KEY,	   "ssh-dss AAAAB3NzaC1kc3MAAACBAO", "ssh-ed25519 !!!!notbase64!!!!!!!",
	    "ssh-ed25519",		   "role=\"operator " KEY,	 "garbage",
	};
	struct key k;

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		assert_int_equal(parse(bad[i], &k), -1);
	assert_int_equal(parse("", &k), 0);
	assert_int_equal(parse("   # a comment", &k), 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_plain_key_is_an_orchestrators),
	    cmocka_unit_test(role_and_sessions_are_taken),
	    cmocka_unit_test(what_would_widen_a_right_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
