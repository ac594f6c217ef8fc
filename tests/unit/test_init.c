/* The parts of berth-init, under glibc: what it makes of a request, its table of calls, its PTY.
 * The whole of it, as it is shipped, is run by test_keeper.c. */
#define main init_main
#include "server/init/init.c"
#include "server/init/loaded.c"
#undef main
#include "server/init/opener.c"
#include "server/init/reap.c"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdio.h>

#include "base/time.h"

static int
group_setup(void **state)
{
	struct err err;
	(void)state;
	return reap_init(&err);
}

static int
setup(void **state)
{
	(void)state;
	memset(calls, 0, sizeof calls);
	calls_top = 0;
	return 0;
}

static void
strings_are_split_within_bounds(void **state)
{
	(void)state;
	char *out[4];
	assert_true(split_strings((struct str){"a\0\0bc", 6}, out, 3));
	assert_string_equal(out[0], "a");
	assert_string_equal(out[1], "");
	assert_string_equal(out[2], "bc");
	assert_null(out[3]);
	assert_true(split_strings((struct str){NULL, 0}, out, 3));
	assert_null(out[0]);
	assert_false(split_strings((struct str){"a\0b", 3}, out, 3));       /* no NUL at its end */
	assert_false(split_strings((struct str){"a\0b\0c\0d", 8}, out, 3)); /* one too many */
}

static int
errno_of(const char *command, const char *path)
{
	char *argv[] = {(char *)(uintptr_t)command, NULL}, *env[] = {(char *)(uintptr_t)path, NULL};
	return exec_by_path(argv, env);
}

static void
a_command_is_looked_up_in_the_path_it_gets(void **state)
{
	(void)state;
	assert_int_equal(errno_of("", "PATH=/bin"), ENOENT);
	assert_int_equal(errno_of("no-such-thing", "PATH=/bin:/usr/bin"), ENOENT);
	assert_int_equal(errno_of("no-such-thing", "HOME=/"), ENOENT);
	assert_int_equal(errno_of("/etc/passwd", "PATH=/bin"), EACCES);
	assert_int_equal(errno_of("passwd", "PATH=/etc:/nowhere"),
			 EACCES); /* the best try is told */
	const pid_t pid = fork();
	if (pid == 0) {
		char *argv[] = {(char *)(uintptr_t) "true", NULL};
		char *env[] = {(char *)(uintptr_t) "PATH=/nowhere:/etc/passwd:/usr/bin:/bin", NULL};
		exec_by_path(argv, env);
		_exit(99);
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static pid_t
child_that_exits(int place, int status)
{
	const pid_t pid = fork();
	if (pid == 0) {
		*reap_exec_errno(place) = 40 + status;
		_exit(status);
	}
	return pid;
}

static int
reap_next(struct reaped *out)
{
	siginfo_t told;
	assert_int_equal(waitid(P_ALL, 0, &told, WEXITED | WNOWAIT), 0);
	return reap_one(out);
}

static void
the_dead_are_told_by_their_call(void **state)
{
	(void)state;
	struct reaped r;
	const int a = reap_reserve(7), b = reap_reserve(8);
	assert_true(a >= 0 && b >= 0 && a != b);
	reap_set_pid(a, child_that_exits(a, 3));
	assert_int_equal(reap_next(&r), 1);
	assert_int_equal(r.call, 7);
	assert_int_equal(WEXITSTATUS((int)r.wait_status), 3);
	assert_int_equal(r.exec_errno, 43);
	assert_true(r.peak_bytes > 0);
	child_that_exits(b, 0); /* of no call: an orphan */
	assert_int_equal(reap_next(&r), 0);
	reap_release(b);
	assert_int_equal(reap_one(&r), -1);
	assert_int_equal(calls_top, 0);
}

static void
the_table_is_bounded_and_a_call_lives_once(void **state)
{
	(void)state;
	for (uint32_t i = 1; i <= REAP_CALLS_MAX; i++)
		assert_true(reap_reserve(i) >= 0);
	assert_int_equal(reap_reserve(REAP_CALLS_MAX + 1), -1);
	reap_release(5);
	assert_int_equal(reap_reserve(1), -1); /* lives already */
	assert_int_equal(reap_reserve(REAP_CALLS_MAX + 1), 5);
	assert_int_equal(*reap_exec_errno(5), 0);
}

static void
a_signal_reaches_the_group_of_its_call_alone(void **state)
{
	(void)state;
	struct reaped r;
	pid_t pids[2];
	for (uint32_t i = 0; i < 2; i++) {
		const int place = reap_reserve(20 + i);
		pids[i] = fork();
		if (pids[i] == 0) {
			setsid();
			for (;;)
				pause();
		}
		reap_set_pid(place, pids[i]);
	}
	reap_signal(99, SIGKILL); /* no such call */
	reap_signal(21, SIGKILL);
	assert_int_equal(reap_next(&r), 1);
	assert_int_equal(r.call, 21);
	assert_int_equal(WTERMSIG((int)r.wait_status), SIGKILL);
	assert_int_equal(kill(pids[0], 0), 0);
	assert_int_not_equal(getpid(), 1); /* else the next line ends the machine */
	reap_signal_all(SIGKILL);
	assert_int_equal(reap_next(&r), 1);
	assert_int_equal(r.call, 20);
}

static void
a_terminal_is_born_sane(void **state)
{
	(void)state;
	const struct msg_init_exec m = {
	    .rows = 25, .columns = 81, .x_pixels = 800, .y_pixels = 600};
	struct winsize size;
	struct termios mode;
	auto_close int slave = -1;
	auto_close int master = -1;
	assert_int_equal(open_pty(&m, &slave, &master), 0);
	assert_int_equal(ioctl(master, TIOCGWINSZ, &size), 0);
	assert_int_equal(size.ws_row, 25);
	assert_int_equal(size.ws_col, 81);
	assert_int_equal(size.ws_xpixel, 800);
	assert_int_equal(tcgetattr(slave, &mode), 0);
	assert_true(mode.c_iflag & IUTF8 && mode.c_lflag & ICANON && mode.c_lflag & ECHO);
	assert_true(fcntl(master, F_GETFD) & FD_CLOEXEC && fcntl(slave, F_GETFD) & FD_CLOEXEC);
}

/* ---- sockets: what the keeper cannot ask, since it asks no nonsense ---- */

static struct wire near, keeper;

static void
link_up(void)
{
	struct err err;
	int pair[2];
	assert_int_equal(wire_pair(pair, &err), 0);
	assert_int_equal(wire_open(&near, pair[0], ROLE_INIT, ROLE_KEEPER, PHASE_OPEN, &err), 0);
	assert_int_equal(wire_open(&keeper, pair[1], ROLE_KEEPER, ROLE_INIT, PHASE_OPEN, &err), 0);
}

static void
link_down(void)
{
	wire_close(&near);
	wire_close(&keeper);
}

static const struct message *
next_answer(void)
{
	struct err err;
	assert_int_equal(wire_recv_wait(&keeper, time_now_ns() + 20 * NS_PER_S, &err), 1);
	return &keeper.message;
}

/* What init answers at once: its errno, 0: a socket, -1: nothing yet. */
static int
answer_to(struct msg_init_open m)
{
	struct err err;
	assert_int_equal(wire_send_fds(&keeper, MSG_init_open, &m, NULL, 0, &err), 0);
	assert_int_equal(wire_recv_wait(&near, time_now_ns() + 20 * NS_PER_S, &err), 1);
	assert_int_equal(opener_open(&near, &err), 0);
	if (wire_recv(&keeper, &err) == 0)
		return -1;
	if (keeper.message.id == MSG_init_opened) {
		assert_int_equal(keeper.message.init_opened.request, m.request);
		return 0;
	}
	assert_int_equal(keeper.message.id, MSG_init_open_failed);
	assert_int_equal(keeper.message.init_open_failed.request, m.request);
	return (int)keeper.message.init_open_failed.error;
}

static void
fields_that_name_no_socket_are_refused(void **state)
{
	(void)state;
	const struct str v4 = {"\x7f\0\0\1", 4}, v6 = {"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\1", 16};
	link_up();
	const struct msg_init_open good = {.request = 7, .family = 4, .type = 1, .address = v4};
	assert_int_equal(answer_to(good), 0);
	struct msg_init_open m[9];
	for (size_t i = 0; i < 9; i++)
		m[i] = good;
	m[0].family = 5;
	m[1].address = v6;
	m[2].family = 6;
	m[3].type = 3;
	m[4].port = 65536;
	m[5].action = OPEN_CONNECT; /* no port */
	m[6].action = OPEN_CONNECT, m[6].type = 2, m[6].port = 1;
	m[7].action = OPEN_ROUTE + 1;
	m[8].address.len = 0;
	for (size_t i = 0; i < 9; i++)
		assert_int_equal(answer_to(m[i]), EINVAL);
	m[0] = good;
	m[0].action = OPEN_ROUTE;
	assert_int_equal(answer_to(m[0]), EOPNOTSUPP);
	link_down();
}

/* A port whose backlog is full: what knocks there waits. */
static unsigned
full_port(int *server, int *fill)
{
	union address a = {.v4 = {.sin_family = AF_INET}};
	socklen_t n = sizeof a.v4;
	a.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	*server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(*server, &a.any, n), 0);
	assert_int_equal(listen(*server, 0), 0);
	assert_int_equal(getsockname(*server, &a.any, &n), 0);
	*fill = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(*fill, &a.any, n), 0);
	return ntohs(a.v4.sin_port);
}

static void
connections_on_their_way_are_bounded_and_can_be_called_back(void **state)
{
	(void)state;
	struct err err;
	struct pollfd p[OPENER_CONNECTS_MAX];
	int server, fill;
	struct msg_init_open m = {.action = OPEN_CONNECT, .family = 4, .type = 1,
				  .address = {"\x7f\0\0\1", 4}, .port = full_port(&server, &fill)};
	link_up();
	for (m.request = 1; m.request <= OPENER_CONNECTS_MAX; m.request++)
		assert_int_equal(answer_to(m), -1);
	assert_int_equal(answer_to(m), EAGAIN);
	m.request = 5;
	assert_int_equal(answer_to(m), EAGAIN); /* that one is on its way */
	assert_int_equal(opener_wants(p), OPENER_CONNECTS_MAX);
	assert_int_equal(wire_send(&keeper, init_open_cancel, &err, .request = 5), 0);
	assert_int_equal(wire_send(&keeper, init_open_cancel, &err, .request = 999), 0);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(wire_recv_wait(&near, time_now_ns() + 20 * NS_PER_S, &err), 1);
		assert_int_equal(opener_cancel(&near, &err), 0);
	}
	assert_int_equal(next_answer()->id, MSG_init_open_failed);
	assert_int_equal(keeper.message.init_open_failed.request, 5);
	assert_int_equal(keeper.message.init_open_failed.error, ECANCELED);
	assert_int_equal(wire_recv(&keeper, &err), 0); /* nothing of 999 */
	assert_int_equal(opener_wants(p), OPENER_CONNECTS_MAX - 1);
	/* who goes away refuses them, and each is told */
	close(server);
	unsigned told = 0;
	for (nfds_t n = opener_wants(p); n; n = opener_wants(p)) {
		assert_true(poll(p, n, 20000) > 0);
		assert_int_equal(opener_ready(&near, p, n, &err), 0);
		while (wire_recv(&keeper, &err) == 1) {
			assert_int_equal(keeper.message.id, MSG_init_open_failed);
			assert_int_equal(keeper.message.init_open_failed.error, ECONNREFUSED);
			told++;
		}
	}
	assert_int_equal(told, OPENER_CONNECTS_MAX - 1);
	close(fill);
	link_down();
}

/* What a process that was given a program writes, once its files were laid out. */
static size_t
output_of_loaded(char *const *argv, char *out, size_t size)
{
	char *env[] = {(char *)(uintptr_t) "PATH=/usr/bin:/bin", NULL};
	int ends[2], status;
	size_t n = 0;
	ssize_t k;

	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	const pid_t pid = fork();
	if (pid == 0) {
		dup2(ends[1], 1);
		if (loaded_lay_out() == 0)
			loaded_exec(argv, env);
		_exit(99);
	}
	close(ends[1]);
	while ((k = read(ends[0], out + n, size - 1 - n)) > 0)
		n += (size_t)k;
	out[n] = '\0';
	close(ends[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	return n;
}

static void
a_program_that_was_sent_runs_with_its_files_and_no_other(void **state)
{
	static const char *const texts[] = {"three ", "four ", "five "};
	char *argv[] = {(char *)(uintptr_t) "name", (char *)(uintptr_t) "-c",
			(char *)(uintptr_t) "cat <&3; cat <&4; cat <&5; echo $0; i=3; while [ $i -lt 300 ]; do "
					     "[ -e /proc/$$/fd/$i ] && echo $i; i=$((i+1)); done; :", NULL};
	char out[200];
	struct err err;
	int fds[4];

	(void)state;
	for (int i = 0; i < 3; i++) {
		fds[i] = memfd_create(texts[i], MFD_CLOEXEC);
		assert_int_equal(pwrite(fds[i], texts[i], strlen(texts[i]), 0), strlen(texts[i]));
	}
	fds[3] = open("/bin/sh", O_RDONLY | O_CLOEXEC);
	link_up();
	const struct msg_init_loaded m = {.call = 7};
	assert_int_equal(wire_send_fds(&keeper, MSG_init_loaded, &m, fds, 4, &err), 0);
	for (int i = 0; i < 4; i++)
		close(fds[i]);
	assert_false(loaded_is_for(7));
	assert_int_equal(wire_recv_wait(&near, time_now_ns() + 20 * NS_PER_S, &err), 1);
	loaded_take(&near);
	assert_true(loaded_is_for(7));
	assert_false(loaded_is_for(8));
	output_of_loaded(argv, out, sizeof out);
	assert_string_equal(out, "three four five name\n3\n4\n5\n");
	loaded_drop();
	assert_false(loaded_is_for(7));
	link_down();
}

int
main(void)
{
#define T(name) cmocka_unit_test_setup(name, setup)
	const struct CMUnitTest tests[] = {
	    T(strings_are_split_within_bounds),
	    T(a_command_is_looked_up_in_the_path_it_gets),
	    T(the_dead_are_told_by_their_call),
	    T(the_table_is_bounded_and_a_call_lives_once),
	    T(a_signal_reaches_the_group_of_its_call_alone),
	    T(a_terminal_is_born_sane),
	    T(a_program_that_was_sent_runs_with_its_files_and_no_other),
	    T(fields_that_name_no_socket_are_refused),
	    T(connections_on_their_way_are_bounded_and_can_be_called_back),
	};
	return cmocka_run_group_tests(tests, group_setup, NULL);
}
