/* The keeper's half of files that come back, with a manager and an init that this test plays: what a child
 * may say, and what comes of anything else. */
#include "server/keeper/putting.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>
#include <signal.h>

#define WAIT_NS (20 * NS_PER_S)

#define assert_ok(call)                                                                            \
	do {                                                                                       \
		struct err room_why = {.code = ERR_NONE};                                          \
		struct err *const room_err = &room_why;                                            \
		if ((call) < 0)                                                                    \
			fail_msg("%s: %s", #call, room_why.why);                                   \
	} while (0)

static struct keeper k;
static struct wire manager, init; /* the far ends */
static uint32_t seq;

static void
on_any(void *ctx)
{
	struct err err;
	(void)!wire_recv(ctx, &err);
}

static void
link_up(struct wire *ours, enum role us, struct wire *theirs, enum role them)
{
	int pair[2];

	assert_ok(wire_pair(pair, room_err));
	assert_ok(wire_open(ours, pair[0], us, them, PHASE_OPEN, room_err));
	assert_ok(wire_open(theirs, pair[1], them, us, PHASE_OPEN, room_err));
	assert_ok(wire_watch(ours, &k.loop, on_any, ours, room_err));
}

static int
play(void **state)
{
	(void)state;
	k = (struct keeper){.putting = {.pipe = -1}};
	assert_ok(loop_init(&k.loop, room_err));
	link_up(&k.manager, ROLE_KEEPER, &manager, ROLE_MANAGER);
	link_up(&k.init, ROLE_KEEPER, &init, ROLE_INIT);
	return 0;
}

static int
play_end(void **state)
{
	struct err err;

	(void)state;
	err_set(&err, ERR_UNAVAILABLE, "the end");
	putting_end(&k, &err);
	wire_close(&k.manager);
	wire_close(&k.init);
	wire_close(&manager);
	wire_close(&init);
	loop_done(&k.loop);
	return 0;
}

/* A put is asked for; returns the write end that init got. */
static int
begin(void)
{
	static struct message asked;

	asked = (struct message){.id = MSG_tree_put, .tree_put = {.seq = ++seq, .path = STR_LIT("a/b")}};
	asked.fds[0] = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	putting_begin(&k, &asked);
	assert_int_equal(asked.fds[0], -1);
	assert_ok(wire_recv_wait(&init, time_now_ns() + WAIT_NS, room_err));
	assert_int_equal(init.message.id, MSG_init_put);
	assert_true(str_is(init.message.init_put.path, "a/b"));
	return fd_steal(&init.message.fds[1]);
}

static const struct msg_tree_put_report *
told(void)
{
	assert_ok(wire_recv_wait(&manager, time_now_ns() + WAIT_NS, room_err));
	assert_int_equal(manager.message.id, MSG_tree_put_report);
	assert_int_equal(manager.message.tree_put_report.seq, seq);
	return &manager.message.tree_put_report;
}

static void
say_bytes(int pipe, const char *bytes, size_t n)
{
	assert_int_equal(write(pipe, bytes, n), n);
	on_pipe(&k, EPOLLIN);
}

static void
say_text(int pipe, const char *text)
{
	say_bytes(pipe, text, strlen(text));
}

static void
what_was_done_is_told_once(void **state)
{
	(void)state;
	auto_close int pipe = begin();
	say_text(pipe, "progress 1 2 3 4 5\n");
	const struct msg_tree_put_report *r = told();
	assert_int_equal(r->ended, 0);
	assert_true(r->written == 1 && r->bytes == 2 && r->removed == 3 && r->same == 4 && r->skipped == 5);
	say_text(pipe, "do");
	say_text(pipe, "ne 9 8 7 6 5");
	assert_int_equal(k.putting.pipe >= 0, 1);
	say_text(pipe, "\nprogress 0 0 0 0 0\n");
	r = told();
	assert_true(r->ended == 1 && r->code == ERR_NONE && r->written == 9 && r->skipped == 5);
	assert_int_equal(k.putting.pipe, -1);
}

static void
a_failure_keeps_its_code_and_words(void **state)
{
	(void)state;
	auto_close int pipe = begin();
	char line[64];
	snprintf(line, sizeof line, "failed %d write /a: no space\n", (int)ERR_NO_SPACE);
	say_text(pipe, line);
	const struct msg_tree_put_report *r = told();
	assert_true(r->ended == 1 && r->code == ERR_NO_SPACE && str_is(r->why, "write /a: no space"));
	auto_close int other = begin();
	say_text(other, "failed 5 \x1b[2Jred\n");
	assert_true(str_is(told()->why, "?[2Jred"));
}

static void
another_one_is_refused_meanwhile(void **state)
{
	(void)state;
	auto_close int pipe = begin();
	struct message more = {.id = MSG_tree_put, .tree_put = {.seq = ++seq, .path = STR_LIT("c")}};
	more.fds[0] = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	putting_begin(&k, &more);
	const struct msg_tree_put_report *r = told();
	assert_true(r->ended == 1 && r->code == ERR_AGAIN);
	assert_true(k.putting.pipe >= 0);
	putting_stop(&k, seq); /* not this one's number */
	assert_true(k.putting.pipe >= 0);
	putting_stop(&k, --seq);
	assert_int_equal(k.putting.pipe, -1);
	assert_int_equal(write(pipe, "x", 1), -1); /* and its child is told by that */
}

static void
what_fits_no_line_ends_it(void **state)
{
	static const char *const bad[] = {
	    "\n", "done\n", "done 1 2 3 4\n", "done 1 2 3 4 -5\n", "progress a b c d e\n", "failed\n", "failed x y\n",
	    "failed 4294967296 y\n", "finished 1 2 3 4 5\n", "done 1 2 3 4 99999999999999999999\n",
	};

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		auto_close int pipe = begin();
		say_text(pipe, bad[i]);
		const struct msg_tree_put_report *r = told();
		assert_true(r->ended == 1 && r->code == ERR_CORRUPT);
		assert_int_equal(k.putting.pipe, -1);
	}
	auto_close int pipe = begin();
	char endless[PUTTING_LINE_BYTES + 10];
	memset(endless, 'x', sizeof endless);
	say_bytes(pipe, endless, sizeof endless);
	assert_int_equal(told()->code, ERR_CORRUPT);
}

static void
a_silent_end_is_a_failure(void **state)
{
	(void)state;
	int pipe = begin();
	fd_close(&pipe);
	on_pipe(&k, EPOLLIN | EPOLLHUP);
	const struct msg_tree_put_report *r = told();
	assert_true(r->ended == 1 && r->code == ERR_UNAVAILABLE);
}

/* A child that says nothing but "progress" makes few messages. */
static void
a_flood_is_not_passed_on(void **state)
{
	(void)state;
	auto_close int pipe = begin();
	for (int i = 0; i < 2000; i++)
		say_text(pipe, "progress 1 1 1 1 1\n");
	say_text(pipe, "done 1 1 1 1 1\n");
	int n = 1;
	while (!told()->ended)
		n++;
	assert_true(n < 200);
}

int
main(void)
{
#define in_play(test) cmocka_unit_test_setup_teardown(test, play, play_end)
	const struct CMUnitTest tests[] = {
	    in_play(what_was_done_is_told_once),
	    in_play(a_failure_keeps_its_code_and_words),
	    in_play(another_one_is_refused_meanwhile),
	    in_play(what_fits_no_line_ends_it),
	    in_play(a_silent_end_is_a_failure),
	    in_play(a_flood_is_not_passed_on),
	};
	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
