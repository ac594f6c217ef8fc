/* /etc/hosts knows the name of the session: one line more, or nothing at all (see hostname.c). */
#include "server/keeper/hostname.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static int before = -1; /* the working directory that the test was started in */
static char top[64];

static int
setup(void **state)
{
	(void)state;
	snprintf(top, sizeof top, "/tmp/berth-hostname-XXXXXX");
	before = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (before < 0 || !mkdtemp(top) || chdir(top) < 0)
		return -1;
	return mkdir("etc", 0755);
}

static int
teardown(void **state)
{
	(void)state;
	unlink("etc/hosts");
	unlink("elsewhere");
	rmdir("etc/hosts");
	if (rmdir("etc") < 0)
		unlink("etc");
	rmdir("real");
	const int result = fchdir(before);
	fd_close(&before);
	return rmdir(top) | result;
}

static void
put(const char *path, const char *text)
{
	auto_close int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
}

static void
expect(const char *path, const char *text)
{
	char got[512] = "";
	auto_close int fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_true(read(fd, got, sizeof got - 1) >= 0);
	assert_string_equal(got, text);
}

static void
test_a_name_is_added_once(void **state)
{
	(void)state;
	put("etc/hosts", "127.0.0.1\tlocalhost\n");
	add_to_hosts("demo");
	add_to_hosts("demo");
	expect("etc/hosts", "127.0.0.1\tlocalhost\n127.0.1.1\tdemo\n");
	add_to_hosts("dem");
	expect("etc/hosts", "127.0.0.1\tlocalhost\n127.0.1.1\tdemo\n127.0.1.1\tdem\n");
}

static void
test_what_a_cut_off_start_left_is_gone_and_the_mode_stays(void **state)
{
	struct stat st;

	(void)state;
	put("etc/hosts", "127.0.0.1\tlocalhost\n");
	put("etc/.hosts.berth", "half");
	assert_int_equal(chmod("etc/hosts", 0640), 0);
	add_to_hosts("demo");
	expect("etc/hosts", "127.0.0.1\tlocalhost\n127.0.1.1\tdemo\n");
	assert_int_equal(stat("etc/.hosts.berth", &st), -1);
	assert_int_equal(stat("etc/hosts", &st), 0);
	assert_int_equal(st.st_mode & 07777, 0640);
}

static void
test_a_name_that_is_there_stays_as_it_is(void **state)
{
	(void)state;
	put("etc/hosts", "10.0.0.7  other\t demo # mine");
	add_to_hosts("demo");
	expect("etc/hosts", "10.0.0.7  other\t demo # mine");
}

static void
test_a_comment_and_an_address_are_no_names(void **state)
{
	(void)state;
	put("etc/hosts", "# 127.0.1.1 demo\ndemo\n10.0.0.7 other # demo");
	add_to_hosts("demo");
	expect("etc/hosts", "# 127.0.1.1 demo\ndemo\n10.0.0.7 other # demo\n127.0.1.1\tdemo\n");
}

static void
test_a_missing_file_is_made_with_localhost(void **state)
{
	struct stat st;

	(void)state;
	umask(022);
	add_to_hosts("demo");
	expect("etc/hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
			    "127.0.1.1\tdemo\n");
	assert_int_equal(stat("etc/hosts", &st), 0);
	assert_int_equal(st.st_mode & 07777, 0644);
}

static void
test_a_link_is_not_followed(void **state)
{
	(void)state;
	put("elsewhere", "127.0.0.1 localhost\n");
	assert_int_equal(symlink("../elsewhere", "etc/hosts"), 0);
	add_to_hosts("demo");
	expect("elsewhere", "127.0.0.1 localhost\n");
}

static void
test_a_linked_directory_is_not_followed(void **state)
{
	struct stat st;

	(void)state;
	assert_int_equal(rmdir("etc"), 0);
	assert_int_equal(mkdir("real", 0755), 0);
	assert_int_equal(symlink("real", "etc"), 0);
	add_to_hosts("demo");
	assert_int_equal(stat("real/hosts", &st), -1);
}

static void
test_what_is_no_file_is_left_alone_and_nothing_waits(void **state)
{
	(void)state;
	assert_int_equal(mkfifo("etc/hosts", 0644), 0);
	add_to_hosts("demo"); /* would wait for a writer */
	assert_int_equal(unlink("etc/hosts"), 0);
	assert_int_equal(mkdir("etc/hosts", 0755), 0);
	add_to_hosts("demo");
	assert_int_equal(rmdir("etc/hosts"), 0);
}

static void
test_a_file_that_does_not_fit_is_left_alone(void **state)
{
	struct stat st;

	(void)state;
	put("etc/hosts", "127.0.0.1 localhost\n");
	assert_int_equal(truncate("etc/hosts", HOSTS_MAX_BYTES + 1), 0);
	add_to_hosts("demo");
	assert_int_equal(stat("etc/hosts", &st), 0);
	assert_int_equal(st.st_size, HOSTS_MAX_BYTES + 1);
}

int
main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
	    T(test_a_name_is_added_once),
	    T(test_what_a_cut_off_start_left_is_gone_and_the_mode_stays),
	    T(test_a_name_that_is_there_stays_as_it_is),
	    T(test_a_comment_and_an_address_are_no_names),
	    T(test_a_missing_file_is_made_with_localhost),
	    T(test_a_link_is_not_followed),
	    T(test_a_linked_directory_is_not_followed),
	    T(test_what_is_no_file_is_left_alone_and_nothing_waits),
	    T(test_a_file_that_does_not_fit_is_left_alone),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
