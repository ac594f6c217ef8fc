/* What a child of init makes of the session's files, under glibc; its places in init. As it is
 * shipped it is run by e2e/test_names.py. */
#include "server/init/lookup.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>
#include <sys/stat.h>
#include <sys/wait.h>

static char path[64];

static void
write_file(const char *text)
{
	FILE *f = fopen(path, "we");
	assert_non_null(f);
	fputs(text, f);
	assert_int_equal(fclose(f), 0);
}

static int
setup(void **state)
{
	struct err err;
	(void)state;
	memset(children, 0, sizeof children);
	snprintf(path, sizeof path, "/tmp/berth-lookup.%d", getpid());
	return reap_init(&err);
}

static int
teardown(void **state)
{
	(void)state;
	reap_leave();
	unlink(path);
	return 0;
}

static size_t
found(const char *name, struct answer *a)
{
	*a = (struct answer){.n = 1};
	look_in_hosts(path, name, a);
	return (a->n - 1) / (1 + RESOLVE_ADDRESS_BYTES);
}

static void
a_hosts_file_is_read_line_by_line(void **state)
{
	struct answer a;
	char text[8192] =
	    "# 10.0.0.9 db\n10.0.0.1\tone DB # db2\r\n::2 db\nnonsense db\n10.0.0 db\n"
	    "10.0.0.3\n\n   10.0.0.4   four  \n";
	(void)state;
	assert_int_equal(found("db", &a), 0);   /* no file */
	memset(text + strlen(text), ' ', 3000); /* a long line is one line */
	snprintf(text + strlen(text), 64, "10.0.0.7 long\n10.0.0.5 after");
	write_file(text);
	assert_int_equal(found("db", &a), 2);
	assert_int_equal(a.bytes[0], RESOLVE_FOUND);
	assert_memory_equal(a.bytes + 1, "\4\x0a\0\0\1\0\0\0\0\0\0\0\0\0\0\0\0", 17);
	assert_memory_equal(a.bytes + 18, "\6\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\2", 17);
	assert_int_equal(found("db2", &a), 0);
	assert_int_equal(found("10.0.0.3", &a), 0);
	assert_int_equal(found("four", &a), 1);
	assert_int_equal(found("long", &a), 0);
	assert_int_equal(found("after", &a), 1);
	assert_int_equal(found("d", &a), 0);
}

static void
no_more_addresses_than_there_is_room_for(void **state)
{
	struct answer a;
	char text[4096] = "";
	(void)state;
	for (int i = 1; i < 100; i++)
		snprintf(text + strlen(text), 32, "10.0.0.%d db\n", i);
	write_file(text);
	assert_int_equal(found("db", &a), RESOLVE_MOST);
	assert_int_equal(a.n, sizeof a.bytes);
}

static void
a_name_server_counts_where_it_can_be_asked(void **state)
{
	(void)state;
	unlink(path);
	assert_false(has_server(path));
	static const char *const no[] = {
	    "",
	    "# nameserver 127.0.0.1\n",
	    "nameserver\n",
	    "nameserver x\n",
	    "search a\nnameservers 127.0.0.1\n",
	    " nameserver 127.0.0.1\n",
	    "nameserver 1\nnameserver 2\nnameserver 3\nnameserver 127.0.0.1\n"};
	for (size_t i = 0; i < sizeof no / sizeof *no; i++) {
		write_file(no[i]);
		assert_false(has_server(path));
	}
	write_file("search a\nnameserver   127.0.0.1 # here\noptions x");
	assert_true(has_server(path));
}

/* Gives lookup_begin what a keeper would send; returns the read end. */
static int
begin(const char *name)
{
	int ends[2];
	struct wire w = {.fd = -1};
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	w.message.id = MSG_init_resolve;
	w.message.fds[0] = ends[1];
	w.message.init_resolve.name = str_of(name);
	w.message.init_resolve.uid = w.message.init_resolve.gid = getuid() == 0 ? 65534 : 0;
	lookup_begin(&w);
	assert_int_equal(w.message.fds[0], -1);
	return ends[0];
}

static void
a_child_says_what_it_found_and_gives_its_place_back(void **state)
{
	uint8_t got[256];
	struct reaped r;
	siginfo_t told;
	(void)state;
	auto_close int fd = begin("127.0.0.1");
	assert_true(children[0] > 0);
	assert_int_equal(read(fd, got, sizeof got), 18);
	assert_memory_equal(got, "\1\4\x7f\0\0\1\0\0\0\0\0\0\0\0\0\0\0\0", 18);
	assert_int_equal(read(fd, got, sizeof got), 0);
	assert_int_equal(waitid(P_ALL, 0, &told, WEXITED | WNOWAIT), 0);
	assert_int_equal(reap_one(&r), 0); /* no call's */
	assert_int_equal(r.pid, children[0]);
	lookup_reaped(r.pid);
	assert_int_equal(children[0], 0);
	lookup_reaped(r.pid);
}

static void
without_a_place_it_says_so_and_begins_nothing(void **state)
{
	uint8_t got[8];
	(void)state;
	for (int i = 0; i < RESOLVE_AT_ONCE; i++)
		children[i] = 1 << 30;
	auto_close int fd = begin("127.0.0.1");
	assert_int_equal(read(fd, got, sizeof got), 1);
	assert_int_equal(got[0], RESOLVE_BUSY);
	assert_int_equal(read(fd, got, sizeof got), 0);
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
}

/* Its files hang it: whoever does not wait any more ends it. */
static void
a_child_ends_when_its_reader_goes(void **state)
{
	int ends[2], status, sync[2];
	(void)state;
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	assert_int_equal(pipe2(sync, O_CLOEXEC), 0);
	const pid_t pid = fork();
	if (pid == 0) {
		close(ends[0]);
		const int go = fcntl(sync[1], F_DUPFD, 0);
		alarm(20);
		if (write(go, "x", 1) != 1 || keep_pipe(ends[1]) < 0)
			_exit(99); /* it was gone before */
		for (;;)
			pause();
	}
	char x;
	close(ends[1]);
	assert_int_equal(read(sync[0], &x, 1), 1);
	close(ends[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) ? WTERMSIG(status) == SIGIO : WEXITSTATUS(status) == 99);
	close(sync[0]);
	close(sync[1]);
}

int
main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
	    T(a_hosts_file_is_read_line_by_line),
	    T(no_more_addresses_than_there_is_room_for),
	    T(a_name_server_counts_where_it_can_be_asked),
	    T(a_child_says_what_it_found_and_gives_its_place_back),
	    T(without_a_place_it_says_so_and_begins_nothing),
	    T(a_child_ends_when_its_reader_goes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
