/* The keeper's half of "open these sockets inside": first with an init that this test plays, honest
 * or lying, then with the real one in a launched sandbox. */
#include "server/keeper/sockets.c"

#include "confine.h"
#include "engine_room.h"

static struct loop loop;
static struct wire link_to_init, far; /* far: what init holds */
static struct sockets sockets;

/* What the callback was told. */
static struct told {
	unsigned times;
	int fds[SOCKETS_MAX];
	size_t n;
	struct err failure;
} told;

static void
on_told(void *ctx, const int *take_fds, size_t n, const struct err *failure)
{
	assert_ptr_equal(ctx, &told);
	told.times++;
	told.n = n;
	for (size_t i = 0; i < n; i++)
		told.fds[i] = take_fds[i];
	told.failure = failure ? *failure : (struct err){.code = ERR_NONE};
}

static void
close_told(void)
{
	for (size_t i = 0; i < told.n; i++)
		fd_close(&told.fds[i]);
	told.n = 0;
}

static unsigned
open_files(void)
{
	unsigned n = 0;
	DIR *list = opendir("/proc/self/fd");
	while (readdir(list))
		n++;
	closedir(list);
	return n;
}

static struct socket_wish
wish(enum open_action action, const char *address, unsigned port)
{
	struct socket_wish w = {.action = action, .family = strchr(address, ':') ? 6 : 4};
	assert_int_equal(inet_pton(w.family == 6 ? AF_INET6 : AF_INET, address, w.address), 1);
	w.port = (uint16_t)port;
	return w;
}

static uint32_t
ask(const struct socket_wish *wishes, size_t n, uint64_t within_ns)
{
	uint32_t request = 0;
	told = (struct told){.n = 0};
	assert_ok(sockets_open(&sockets, wishes, n, time_now_ns() + within_ns, on_told, &told,
			       &request, room_err));
	return request;
}

static void
turn_until_told(void)
{
	const uint64_t deadline_ns = time_now_ns() + ROOM_WAIT_NS;
	while (told.times == 0) {
		assert_true(time_now_ns() < deadline_ns);
		assert_ok(loop_turn(&loop, NS_PER_S, room_err));
	}
	assert_int_equal(told.times, 1);
	assert_int_equal(told.failure.code == ERR_NONE, told.n > 0);
}

/* ---- an init that this test plays ---- */

static unsigned exited; /* calls of the real one that have ended */

static void
on_init(void *ctx)
{
	struct wire *w = ctx;
	struct err err;
	int got;

	while ((got = wire_recv(w, &err)) == 1) {
		struct message *m = &w->message;
		if (m->id == MSG_init_opened)
			sockets_opened(&sockets, &m->init_opened, fd_steal(&m->fds[0]));
		else if (m->id == MSG_init_open_failed)
			sockets_failed(&sockets, &m->init_open_failed);
		else if (m->id == MSG_init_exited)
			exited++;
	}
	if (got < 0)
		sockets_end(&sockets, &err);
}

static int
play(void **state)
{
	int pair[2];
	(void)state;
	assert_ok(loop_init(&loop, room_err));
	assert_ok(wire_pair(pair, room_err));
	assert_ok(wire_open(&link_to_init, pair[0], ROLE_KEEPER, ROLE_INIT, PHASE_OPEN, room_err));
	assert_ok(wire_open(&far, pair[1], ROLE_INIT, ROLE_KEEPER, PHASE_OPEN, room_err));
	assert_ok(wire_watch(&link_to_init, &loop, on_init, &link_to_init, room_err));
	sockets_init(&sockets, &loop, &link_to_init);
	return 0;
}

static int
play_end(void **state)
{
	(void)state;
	assert_null(sockets.asked);
	assert_int_equal(sockets.on_the_way, 0);
	close_told();
	wire_close(&link_to_init);
	wire_close(&far);
	loop_done(&loop);
	return 0;
}

/* The next message as init gets it. */
static const struct message *
heard(void)
{
	assert_ok(wire_recv_wait(&far, time_now_ns() + ROOM_WAIT_NS, room_err));
	return &far.message;
}

static void
say_open(uint32_t request, int fd)
{
	const struct msg_init_opened body = {.request = request};
	assert_ok(wire_send_fds(&far, MSG_init_opened, &body, &fd, 1, room_err));
	assert_ok(loop_turn(&loop, NS_PER_S, room_err));
}

static void
say_fail(uint32_t request, int number)
{
	assert_ok(wire_send(&far, init_open_failed, room_err, .request = request,
			    .error = (uint32_t)number));
	assert_ok(loop_turn(&loop, NS_PER_S, room_err));
}

/* A socket of the test's own, bound to a free port of an address: *port tells which. */
static int
bound(const char *address, int type, bool listens, unsigned *port)
{
	union address a = {0};
	const struct socket_wish w = wish(OPEN_LISTEN, address, 0);
	const bool six = w.family == 6;
	socklen_t n = six ? sizeof a.v6 : sizeof a.v4;
	const int fd = socket(six ? AF_INET6 : AF_INET, type | SOCK_CLOEXEC, 0);

	a.any.sa_family = six ? AF_INET6 : AF_INET;
	memcpy(six ? (void *)&a.v6.sin6_addr : &a.v4.sin_addr, w.address, six ? 16 : 4);
	assert_return_code(bind(fd, &a.any, n), errno);
	if (listens)
		assert_return_code(listen(fd, 8), errno);
	assert_return_code(getsockname(fd, &a.any, &n), errno);
	*port = ntohs(six ? a.v6.sin6_port : a.v4.sin_port);
	return fd;
}

static int
connected(unsigned port)
{
	union address a = {.v4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)}};
	const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	a.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	assert_return_code(connect(fd, &a.any, sizeof a.v4), errno);
	return fd;
}

static void
test_what_was_asked_for_comes_in_its_order(void **state)
{
	(void)state;
	unsigned one, two;
	auto_close int a = bound("127.0.0.1", SOCK_STREAM, true, &one);
	auto_close int b = bound("127.0.0.1", SOCK_DGRAM, false, &two);
	struct socket_wish w[2] = {wish(OPEN_LISTEN, "127.0.0.1", one),
				   wish(OPEN_LISTEN, "127.0.0.1", two)};
	w[1].datagram = true;
	const uint32_t request = ask(w, 2, NS_PER_S * 20);
	const struct msg_init_open *m = &heard()->init_open;
	assert_int_equal(m->action, OPEN_LISTEN);
	assert_int_equal(m->family, 4);
	assert_int_equal(m->type, 1);
	assert_int_equal(m->port, one);
	assert_memory_equal(m->address.at, "\x7f\0\0\1", 4);
	assert_int_equal(heard()->init_open.type, 2);
	say_open(request + 1, b);
	assert_int_equal(told.times, 0);
	assert_non_null(strstr(sockets_wait_for(&sockets), "a listener on 127.0.0.1:"));
	say_open(request, a);
	turn_until_told();
	assert_int_equal(told.n, 2);
	assert_int_equal(option_of(told.fds[0], SO_TYPE), SOCK_STREAM);
	assert_int_equal(option_of(told.fds[1], SO_TYPE), SOCK_DGRAM);
	assert_string_equal(sockets_wait_for(&sockets), "");
}

/* Sends fd for what was wished: it must not be taken, and nothing of it stays open. */
static void
expect_no(struct socket_wish w, int take_fd, const char *why)
{
	const uint32_t request = ask(&w, 1, NS_PER_S * 20);
	heard();
	const unsigned before = open_files();
	say_open(request, take_fd);
	turn_until_told();
	assert_int_equal(told.failure.code, ERR_CORRUPT);
	if (!strstr(told.failure.why, why))
		fail_msg("said: %s; wanted: %s", told.failure.why, why);
	assert_int_equal(open_files(), before);
	close(take_fd);
	if (w.action == OPEN_CONNECT)
		assert_int_equal(heard()->id, MSG_init_open_cancel);
}

static void
test_what_is_no_such_socket_is_not_taken(void **state)
{
	(void)state;
	unsigned port, other;
	int pair[2];
	auto_close int server = bound("127.0.0.1", SOCK_STREAM, true, &other);
	int fd = bound("127.0.0.1", SOCK_STREAM, true, &port);
	struct socket_wish w = wish(OPEN_LISTEN, "127.0.0.1", port);
	struct socket_wish c = wish(OPEN_CONNECT, "127.0.0.1", port);

	expect_no(w, open("/dev/null", O_RDWR | O_CLOEXEC), "it is no socket");
	assert_int_equal(pipe2(pair, O_CLOEXEC), 0);
	expect_no(w, pair[0], "it is no socket");
	close(pair[1]);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	expect_no(w, pair[0], "of another kind");
	close(pair[1]);
	expect_no(c, dup(server), "it listens");
	expect_no(w, dup(server), "another one");
	expect_no(w, socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "it does not listen");
	expect_no(w, socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_TCP), "of another kind");
	expect_no(w, bound("127.0.0.1", SOCK_DGRAM, false, &other), "of another kind");
	expect_no(w, bound("::1", SOCK_STREAM, true, &other), "of another kind");
	expect_no(wish(OPEN_LISTEN, "0.0.0.0", port), fd, "another one");
	struct socket_wish elsewhere = wish(OPEN_CONNECT, "127.0.0.1", 1);
	union address a;
	socklen_t n = sizeof a;
	assert_int_equal(getsockname(server, &a.any, &n), 0);
	expect_no(elsewhere, connected(ntohs(a.v4.sin_port)), "another one");
	w = wish(OPEN_LISTEN, "127.0.0.1", 0);
	w.datagram = true;
	expect_no(w, bound("127.0.0.1", SOCK_STREAM, true, &other), "of another kind");
	expect_no((struct socket_wish){.action = OPEN_ROUTE, .family = 4}, dup(server),
		  "it is no socket");
}

static void
test_all_come_or_none(void **state)
{
	(void)state;
	unsigned port;
	auto_close int fd = bound("127.0.0.1", SOCK_STREAM, true, &port);
	const struct socket_wish w[2] = {wish(OPEN_LISTEN, "127.0.0.1", port),
					 wish(OPEN_LISTEN, "::1", 80)};
	const uint32_t request = ask(w, 2, NS_PER_S * 20);
	const unsigned before = open_files();
	say_open(request, fd);
	assert_int_equal(open_files(), before + 1);
	say_fail(request + 1, EADDRINUSE);
	turn_until_told();
	assert_int_equal(told.failure.code, ERR_UNAVAILABLE);
	assert_string_equal(told.failure.why,
			    "a listener on [::1]:80 inside: Address already in use");
	assert_int_equal(open_files(), before);
}

static void
test_answers_that_nobody_waits_for_are_dropped(void **state)
{
	(void)state;
	unsigned port;
	auto_close int fd = bound("127.0.0.1", SOCK_STREAM, true, &port);
	const struct socket_wish w[2] = {wish(OPEN_LISTEN, "127.0.0.1", port),
					 wish(OPEN_LISTEN, "127.0.0.1", port)};
	const uint32_t request = ask(w, 2, NS_PER_S * 20);
	const uint32_t others[] = {0, request - 1, request + 2, request + 77, UINT32_MAX};
	const unsigned before = open_files();
	for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
		say_open(others[i], fd);
		say_fail(others[i], ECONNREFUSED);
	}
	assert_int_equal(open_files(), before);
	assert_int_equal(told.times, 0);
	say_open(request, fd);
	say_open(request, fd); /* twice */
	say_fail(request, EINVAL);
	assert_int_equal(open_files(), before + 1);
	assert_int_equal(told.times, 0);
	say_open(request + 1, fd);
	turn_until_told();
	say_open(request + 1, fd); /* after its end */
	assert_int_equal(told.times, 1);
	close_told();
	assert_int_equal(open_files(), before);
}

static void
test_a_number_of_inits_is_words_whatever_it_is(void **state)
{
	(void)state;
	const int numbers[] = {0, 99999, -1, INT32_MIN, 4095};
	const struct socket_wish w = wish(OPEN_CONNECT, "10.1.2.3", 80);
	for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
		const uint32_t request = ask(&w, 1, NS_PER_S * 20);
		say_fail(request, numbers[i]);
		turn_until_told();
		assert_int_equal(told.failure.code, ERR_UNAVAILABLE);
		assert_true(
		    str_starts(str_of(told.failure.why), "a connection to 10.1.2.3:80 inside: "));
	}
}

static void
test_a_deadline_ends_it_and_init_is_told(void **state)
{
	(void)state;
	unsigned port;
	auto_close int server = bound("127.0.0.1", SOCK_STREAM, true, &port);
	const struct socket_wish w = wish(OPEN_CONNECT, "127.0.0.1", port);
	const uint32_t request = ask(&w, 1, 20 * NS_PER_MS);
	heard();
	turn_until_told();
	assert_int_equal(told.failure.code, ERR_TIMEOUT);
	assert_true(
	    str_starts(str_of(told.failure.why), "waited too long for a connection to 127.0.0.1:"));
	assert_int_equal(heard()->id, MSG_init_open_cancel);
	assert_int_equal(far.message.init_open_cancel.request, request);
	auto_close int fd = connected(port);
	const unsigned before = open_files();
	say_open(request, fd); /* too late */
	assert_int_equal(told.times, 1);
	assert_int_equal(open_files(), before);
}

static void
test_who_cancels_hears_no_more(void **state)
{
	(void)state;
	const struct socket_wish w = wish(OPEN_CONNECT, "127.0.0.1", 80);
	const uint32_t request = ask(&w, 1, NS_PER_S * 20);
	heard();
	sockets_cancel(&sockets, request);
	assert_int_equal(heard()->id, MSG_init_open_cancel);
	say_fail(request, ECANCELED);
	sockets_cancel(&sockets, request);
	assert_int_equal(told.times, 0);
}

static void
test_what_can_be_asked_is_bounded(void **state)
{
	(void)state;
	struct err err;
	struct socket_wish w[SOCKETS_MAX + 1];
	for (size_t i = 0; i <= SOCKETS_MAX; i++)
		w[i] = wish(OPEN_CONNECT, "127.0.0.1", 80);
#define refused(wishes, n)                                                                         \
	sockets_open(&sockets, wishes, n, time_now_ns() + NS_PER_S, on_told, &told, NULL, &err)
	assert_int_equal(refused(w, 0), -1);
	assert_int_equal(err.code, ERR_USAGE);
	assert_int_equal(refused(w, SOCKETS_MAX + 1), -1);
	assert_int_equal(err.code, ERR_USAGE);
	w[1].port = 0;
	assert_int_equal(refused(w, 2), -1);
	w[1] = (struct socket_wish){.action = OPEN_CONNECT, .family = 5, .port = 1};
	assert_int_equal(refused(w, 2), -1);
	w[1] = wish((enum open_action)7, "127.0.0.1", 80);
	assert_int_equal(refused(w, 2), -1);
	w[1] = wish(OPEN_CONNECT, "127.0.0.1", 80);
	w[1].datagram = true;
	assert_int_equal(refused(w, 2), -1);
	assert_int_equal(err.code, ERR_USAGE);
	w[1].datagram = false;
	for (int i = 0; i < SOCKETS_ON_THE_WAY / SOCKETS_MAX; i++)
		ask(w, SOCKETS_MAX, NS_PER_S * 20);
	assert_int_equal(refused(w, 1), -1);
	assert_int_equal(err.code, ERR_UNAVAILABLE);
#undef refused
	wire_close(&far); /* init is gone: all that waited are told, once each */
	while (sockets.asked)
		assert_ok(loop_turn(&loop, NS_PER_S, room_err));
	assert_int_equal(told.times, SOCKETS_ON_THE_WAY / SOCKETS_MAX);
	assert_int_equal(told.failure.code, ERR_UNAVAILABLE);
}

/* All that is done with a socket from inside is allowed to a keeper that has given up its rights.
 */
static void
test_a_confined_keeper_can_look_at_them(void **state)
{
	(void)state;
	room_or_skip();
	unsigned port;
	auto_close int server = bound("127.0.0.1", SOCK_STREAM, true, &port);
	auto_close int client = connected(port);
	const pid_t pid = fork();
	if (pid == 0) {
		const struct socket_wish l = wish(OPEN_LISTEN, "127.0.0.1", port);
		const struct socket_wish c = wish(OPEN_CONNECT, "127.0.0.1", port);
		struct err err;
		if (confine_keeper(65534, 65534, false, &err) < 0)
			_exit(2);
		_exit(check_socket(server, &l, &err) < 0 || check_socket(client, &c, &err) < 0);
	}
	int status = -1;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

/* ---- the real one, in a sandbox ---- */

static struct session inside;

static int
launch(void **state)
{
	(void)state;
	if (!room.open)
		return 0;
	exited = 0;
	assert_ok(loop_init(&loop, room_err));
	session_start(&inside);
	assert_ok(wire_watch(&inside.wire, &loop, on_init, &inside.wire, room_err));
	sockets_init(&sockets, &loop, &inside.wire);
	return 0;
}

static int
launch_end(void **state)
{
	(void)state;
	if (!room.open)
		return 0;
	close_told();
	assert_null(sockets.asked);
	session_stop(&inside);
	loop_done(&loop);
	return 0;
}

static void
turn_until_exited(unsigned n)
{
	const uint64_t deadline_ns = time_now_ns() + ROOM_WAIT_NS;
	while (exited < n) {
		assert_true(time_now_ns() < deadline_ns);
		assert_ok(loop_turn(&loop, NS_PER_S, room_err));
	}
}

/* A command in the sandbox that says "up" when it is; returns its output from there on. */
static int
run_inside(const char *python)
{
	char text[2048], call[ID_BYTES], up[3];
	snprintf(text, sizeof text, "exec python3 -c \"import socket, sys\n%s\"", python);
	const int output = session_begin(&inside, text, call);
	struct pollfd p = {.fd = output, .events = POLLIN};
	assert_int_equal(poll(&p, 1, 20000), 1);
	assert_int_equal(read(output, up, 3), 3);
	assert_memory_equal(up, "up\n", 3);
	return output;
}

static void
read_socket(int fd, char *out, size_t n)
{
	assert_ok(fd_set_nonblock(fd, room_err));
	read_output(fd, out, n);
}

static void
test_a_server_inside_is_reached_from_outside(void **state)
{
	static const char *const addresses[] = {"127.0.0.1", "::1"};
	(void)state;
	room_or_skip();
	for (int i = 0; i < 2; i++) {
		char python[512], got[64];
		snprintf(
		    python, sizeof python,
		    "s=socket.create_server(('%s',81),family=socket.%s)\nprint('up',flush=True)\n"
		    "c,_=s.accept()\nprint(c.recv(9).decode())\nc.sendall(b'hello')",
		    addresses[i], i ? "AF_INET6" : "AF_INET");
		auto_close int output = run_inside(python);
		const struct socket_wish w = wish(OPEN_CONNECT, addresses[i], 81);
		ask(&w, 1, ROOM_WAIT_NS);
		turn_until_told();
		assert_string_equal(told.failure.why, "");
		assert_int_equal(told.n, 1);
		assert_int_equal(send(told.fds[0], "from out", 8, MSG_NOSIGNAL), 8);
		read_socket(told.fds[0], got, sizeof got);
		assert_string_equal(got, "hello");
		read_output(output, got, sizeof got);
		assert_string_equal(got, "from out");
		close_told();
		turn_until_exited((unsigned)i + 1);
	}
}

static void
test_listeners_inside_are_accepted_on_outside(void **state)
{
	(void)state;
	room_or_skip();
	const struct socket_wish w[] = {
	    wish(OPEN_LISTEN, "127.0.0.1", 80), wish(OPEN_LISTEN, "0.0.0.0", 8080),
	    wish(OPEN_LISTEN, "::", 8080), wish(OPEN_LISTEN, "::1", 443)};
	static const char *const targets[] = {"127.0.0.1',80", "127.0.0.1',8080", "::1',8080",
					      "::1',443"};
	ask(w, 4, ROOM_WAIT_NS);
	turn_until_told();
	assert_string_equal(told.failure.why, "");
	for (unsigned i = 0; i < 4; i++) {
		char python[256], got[64];
		snprintf(python, sizeof python,
			 "c=socket.create_connection(('%s))\nprint('up',flush=True)\n"
			 "c.sendall(b'in')\nprint(c.recv(9).decode())",
			 targets[i]);
		auto_close int output = run_inside(python);
		struct pollfd p = {.fd = told.fds[i], .events = POLLIN};
		assert_int_equal(poll(&p, 1, 20000), 1);
		auto_close int c = accept4(told.fds[i], NULL, NULL, SOCK_CLOEXEC);
		assert_return_code(c, errno);
		assert_int_equal(recv(c, got, sizeof got, 0), 2);
		assert_int_equal(send(c, "out", 3, MSG_NOSIGNAL), 3);
		read_output(output, got, sizeof got);
		assert_string_equal(got, "out");
	}
	turn_until_exited(4);
	/* they are of the session's network, not of ours */
	unsigned port;
	auto_close int own = bound("127.0.0.1", SOCK_STREAM, true, &port);
	(void)own;
	const struct socket_wish same = wish(OPEN_LISTEN, "127.0.0.1", port);
	close_told();
	ask(&same, 1, ROOM_WAIT_NS);
	turn_until_told();
	assert_int_equal(told.n, 1);
}

static void
test_datagrams_come_from_a_bound_socket(void **state)
{
	char got[64];
	(void)state;
	room_or_skip();
	struct socket_wish w = wish(OPEN_LISTEN, "0.0.0.0", 53);
	w.datagram = true;
	ask(&w, 1, ROOM_WAIT_NS);
	turn_until_told();
	assert_string_equal(told.failure.why, "");
	auto_close int output =
	    run_inside("s=socket.socket(type=socket.SOCK_DGRAM)\nprint('up',flush=True)\n"
		       "s.sendto(b'who',('127.0.0.1',53))");
	struct pollfd p = {.fd = told.fds[0], .events = POLLIN};
	assert_int_equal(poll(&p, 1, 20000), 1);
	assert_int_equal(recv(told.fds[0], got, sizeof got, MSG_DONTWAIT), 3);
	turn_until_exited(1);
}

static void
test_what_cannot_be_opened_is_said_in_words(void **state)
{
	(void)state;
	room_or_skip();
	static const struct {
		enum open_action action;
		const char *address;
		unsigned port;
		const char *why;
	} tries[] = {
	    {OPEN_CONNECT, "127.0.0.1", 9,
	     "a connection to 127.0.0.1:9 inside: Connection refused"},
	    {OPEN_CONNECT, "::1", 9, "a connection to [::1]:9 inside: Connection refused"},
	    {OPEN_CONNECT, "192.0.2.1", 80,
	     "a connection to 192.0.2.1:80 inside: Network is unreachable"},
	    {OPEN_LISTEN, "192.0.2.1", 80,
	     "a listener on 192.0.2.1:80 inside: Cannot assign requested address"},
	    {OPEN_ROUTE, "0.0.0.0", 0,
	     "a route for every address inside: a session's init has no right to set routes"},
	};
	for (size_t i = 0; i < sizeof tries / sizeof *tries; i++) {
		const struct socket_wish w = wish(tries[i].action, tries[i].address, tries[i].port);
		ask(&w, 1, ROOM_WAIT_NS);
		turn_until_told();
		assert_string_equal(told.failure.why, tries[i].why);
		assert_int_equal(told.failure.code, ERR_UNAVAILABLE);
	}
	const struct socket_wish twice[2] = {wish(OPEN_LISTEN, "127.0.0.1", 80),
					     wish(OPEN_LISTEN, "127.0.0.1", 80)};
	ask(twice, 2, ROOM_WAIT_NS);
	turn_until_told();
	assert_string_equal(told.failure.why,
			    "a listener on 127.0.0.1:80 inside: Address already in use");
	ask(twice, 1, ROOM_WAIT_NS); /* the first of the two was closed again */
	turn_until_told();
	assert_int_equal(told.n, 1);
}

/* Of a full backlog: the kernel drops what knocks, and the connection waits. */
static void
test_connections_wait_together_and_hold_up_nothing(void **state)
{
	char got[64];
	(void)state;
	room_or_skip();
	auto_close int server =
	    run_inside("s=socket.socket()\ns.bind(('127.0.0.1',82))\ns.listen(0)\n"
		       "k=[socket.socket() for i in range(4)]\n"
		       "for c in k:\n c.setblocking(False)\n c.connect_ex(('127.0.0.1',82))\n"
		       "c=socket.create_server(('127.0.0.1',83))\nprint('up',flush=True)\nimport "
		       "time\ntime.sleep(100)");
	struct socket_wish w[SOCKETS_MAX];
	for (int i = 0; i < SOCKETS_MAX; i++)
		w[i] = wish(OPEN_CONNECT, "127.0.0.1", 82);
	uint32_t waiting[3];
	for (int i = 0; i < 3; i++)
		waiting[i] = ask(w, SOCKETS_MAX, ROOM_WAIT_NS);
	const struct socket_wish other = wish(OPEN_CONNECT, "127.0.0.1", 83);
	ask(&other, 1, ROOM_WAIT_NS); /* is served while 48 wait */
	turn_until_told();
	assert_int_equal(told.n, 1);
	close_told();
	char call[ID_BYTES];
	auto_close int output = session_begin(&inside, "echo served", call);
	read_output(output, got, sizeof got);
	assert_string_equal(got, "served");
	for (int i = 0; i < 3; i++)
		sockets_cancel(&sockets, waiting[i]);
	const struct socket_wish late = wish(OPEN_CONNECT, "127.0.0.1", 82);
	ask(&late, 1, 200 * NS_PER_MS);
	turn_until_told();
	assert_int_equal(told.failure.code, ERR_TIMEOUT);
	/* init has room again for as many as it takes */
	for (int i = 0; i < SOCKETS_ON_THE_WAY / SOCKETS_MAX; i++)
		ask(w, SOCKETS_MAX, 300 * NS_PER_MS);
	while (sockets.asked)
		assert_ok(loop_turn(&loop, NS_PER_S, room_err));
	assert_int_equal(told.failure.code, ERR_TIMEOUT);
}

static void
test_a_sandbox_that_ends_is_told_to_who_waits(void **state)
{
	(void)state;
	room_or_skip();
	auto_close int server =
	    run_inside("s=socket.socket()\ns.bind(('127.0.0.1',82))\ns.listen(0)\n"
		       "k=[socket.socket() for i in range(4)]\n"
		       "for c in k:\n c.setblocking(False)\n c.connect_ex(('127.0.0.1',82))\n"
		       "print('up',flush=True)\nimport time\ntime.sleep(100)");
	const struct socket_wish w = wish(OPEN_CONNECT, "127.0.0.1", 82);
	ask(&w, 1, ROOM_WAIT_NS);
	as_keeper();
	assert_ok(engine_launch.kill(&inside.box, room_err));
	as_root();
	turn_until_told();
	assert_int_equal(told.failure.code, ERR_UNAVAILABLE);
}

int
main(void)
{
#define P(name) cmocka_unit_test_setup_teardown(name, play, play_end)
#define L(name) cmocka_unit_test_setup_teardown(name, launch, launch_end)
	const struct CMUnitTest tests[] = {
	    P(test_what_was_asked_for_comes_in_its_order),
	    P(test_what_is_no_such_socket_is_not_taken),
	    P(test_all_come_or_none),
	    P(test_answers_that_nobody_waits_for_are_dropped),
	    P(test_a_number_of_inits_is_words_whatever_it_is),
	    P(test_a_deadline_ends_it_and_init_is_told),
	    P(test_who_cancels_hears_no_more),
	    P(test_what_can_be_asked_is_bounded),
	    cmocka_unit_test(test_a_confined_keeper_can_look_at_them),
	    L(test_a_server_inside_is_reached_from_outside),
	    L(test_listeners_inside_are_accepted_on_outside),
	    L(test_datagrams_come_from_a_bound_socket),
	    L(test_what_cannot_be_opened_is_said_in_words),
	    L(test_connections_wait_together_and_hold_up_nothing),
	    L(test_a_sandbox_that_ends_is_told_to_who_waits),
	};
	return cmocka_run_group_tests(tests, room_setup, room_teardown);
}
