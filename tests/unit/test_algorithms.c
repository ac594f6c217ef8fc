#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "server/manager/algorithms.c"

static int
choose_kex(const char *value, char out[ALGORITHMS_BYTES])
{
	struct config c;
	struct algorithms a;
	struct err err;

	config_default(&c);
	assert_int_equal(config_set(&c, STR_LIT("kex"), str_of(value), &err), 0);
	if (algorithms_parse(&c, &a, &err) < 0) {
		assert_int_equal(err.code, ERR_CONFIG);
		return -1;
	}
	snprintf(out, ALGORITHMS_BYTES, "%s", a.kex);
	return 0;
}

static void
lists_are_read_as_sshd_reads_them(void **state)
{
	static const struct {
		const char *value, *got;
	} rows[] = {
	    {"default",
	     "curve25519-sha256,curve25519-sha256@libssh.org,diffie-hellman-group16-sha512,"
	     "diffie-hellman-group14-sha256"},
	    {"curve25519-sha256", "curve25519-sha256"},
	    {"ecdh-sha2-nistp256, curve25519-sha256", "ecdh-sha2-nistp256,curve25519-sha256"},
	    {"+ecdh-sha2-nistp256", "curve25519-sha256,curve25519-sha256@libssh.org,diffie-hellman-"
				    "group16-sha512,diffie-hellman-group14-sha256,ecdh-sha2-nistp256"},
	    {"^diffie-hellman-group16-sha512",
	     "diffie-hellman-group16-sha512,curve25519-sha256,curve25519-sha256@libssh.org,"
	     "diffie-hellman-group14-sha256"},
	    {"-diffie-*", "curve25519-sha256,curve25519-sha256@libssh.org"},
	    {"-*@libssh.org,diffie-hellman-group1*", "curve25519-sha256"},
	};
	char got[ALGORITHMS_BYTES];

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		assert_int_equal(choose_kex(rows[i].value, got), 0);
		assert_string_equal(got, rows[i].got);
	}
}

static void
what_is_not_known_or_leaves_nothing_is_refused(void **state)
{
	static const char *const bad[] = {"",
					  "curve25519",
					  "+nothing",
					  "-*",
					  "curve25519-sha256,",
					  "diffie-hellman-group1-sha1",
					  "+diffie-hellman-group14-sha1",
					  "^"};
	char got[ALGORITHMS_BYTES];

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		if (choose_kex(bad[i], got) != -1)
			fail_msg("taken: %s", bad[i]);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(lists_are_read_as_sshd_reads_them),
	    cmocka_unit_test(what_is_not_known_or_leaves_nothing_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
