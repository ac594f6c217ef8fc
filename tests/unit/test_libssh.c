#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "server/manager/libssh.c"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int
compare(const char *a, const char *b)
{
	const int ab = libssh_compare(str_of(a), str_of(b)),
		  ba = libssh_compare(str_of(b), str_of(a));
	assert_true((ab < 0) == (ba > 0) && (ab == 0) == (ba == 0));
	return ab < 0 ? -1 : ab > 0;
}

static void
versions_are_in_debians_order(void **state)
{
	(void)state;
	assert_int_equal(compare("0.10.6-0+deb12u3", "0.10.6-0+deb12u3"), 0);
	assert_int_equal(compare("0.10.6-0+deb12u1", "0.10.6-0+deb12u3"), -1);
	assert_int_equal(compare("0.10.6-0+deb12u10", "0.10.6-0+deb12u3"), 1);
	assert_int_equal(compare("0.9.8-0+deb11u1", "0.10.6-0+deb12u3"), -1);
	assert_int_equal(compare("0.10.5-4", "0.10.6-0+deb12u3"), -1);
	assert_int_equal(compare("0.11.2-1", "0.10.6-0+deb12u3"), 1);
	assert_int_equal(compare("0.10.6-2build2", "0.10.6-0+deb12u3"), 1);
	assert_int_equal(compare("0.10.6~rc1-1", "0.10.6-0+deb12u3"), -1);
	assert_int_equal(compare("0.10.06-1", "0.10.6-1"), 0);
	assert_int_equal(compare("0.10.6", "0.10.6-0+deb12u3"), -1);
}

static int
check(const char *text, struct buf *out, struct err *err)
{
	char dir[] = "/tmp/berth-libssh.XXXXXX", path[64];

	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof path, "%s/status", dir);
	if (text) {
		FILE *f = fopen(path, "w");
		assert_true(f && fputs(text, f) >= 0 && fclose(f) == 0);
	}
	buf_clear(out);
	const int result = libssh_check(dir, out, err);
	unlink(path);
	rmdir(dir);
	return result;
}

static void
what_dpkg_knows_is_said(void **state)
{
	auto_buf out = BUF_MAX(1024);
	struct err err;

	(void)state;
	assert_int_equal(
	    check("Package: libssh-4\nStatus: install ok installed\nVersion: 0.10.6-0+deb12u3\n\n",
		  &out, &err),
	    0);
	assert_string_equal(buf_cstr(&out), "0.10.6-0+deb12u3");
	assert_int_equal(
	    check("Package: a\nVersion: 1\n\nPackage: libssh-4\nStatus: install ok installed\n"
		  "Version: 0.10.6-0+deb12u1\n",
		  &out, &err),
	    -1);
	assert_non_null(strstr(err.why, "0.10.6-0+deb12u1 has known holes"));
	assert_int_equal(
	    check("Package: libssh-4\nStatus: deinstall ok config-files\nVersion: 0.9\n", &out,
		  &err),
	    0);
	assert_non_null(strstr(buf_cstr(&out), "not known"));
	assert_int_equal(check(NULL, &out, &err), 0);
	assert_non_null(strstr(buf_cstr(&out), "not known"));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(versions_are_in_debians_order),
	    cmocka_unit_test(what_dpkg_knows_is_said),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
