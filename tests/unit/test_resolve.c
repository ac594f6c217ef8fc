/* The keeper's half of "resolve this name inside": with an init that this test plays, and what may
 * be said in a child's name. */
#include "server/keeper/resolve.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>
#include <dirent.h>
#include <poll.h>

#define WAIT_NS (20 * NS_PER_S)

#define assert_ok(call)                                                                            \
	do {                                                                                       \
		struct err room_why = {.code = ERR_NONE};                                          \
		struct err *const room_err = &room_why;                                            \
		if ((call) < 0)                                                                    \
			fail_msg("%s: %s", #call, room_why.why);                                   \
	} while (0)

static struct loop loop;
static struct wire link_to_init, far; /* far: what init holds */
static struct resolver resolver;

static struct told {
	unsigned times;
	struct resolve_address found[RESOLVE_MOST];
	size_t n;
	struct err failure;
} told;

static void
on_told(void *ctx, const struct resolve_address *found, size_t n, const struct err *failure)
{
	assert_ptr_equal(ctx, &told);
	told.times++;
	told.n = n;
	for (size_t i = 0; i < n; i++)
		told.found[i] = found[i];
	told.failure = failure ? *failure : (struct err){.code = ERR_NONE};
}

static void
on_init(void *ctx)
{
	struct err err;
	if (wire_recv(ctx, &err) < 0)
		resolve_end(&resolver, &err);
}

static int
play(void **state)
{
	int pair[2];
	(void)state;
	told = (struct told){.n = 0};
	assert_ok(loop_init(&loop, room_err));
	assert_ok(wire_pair(pair, room_err));
	assert_ok(wire_open(&link_to_init, pair[0], ROLE_KEEPER, ROLE_INIT, PHASE_OPEN, room_err));
	assert_ok(wire_open(&far, pair[1], ROLE_INIT, ROLE_KEEPER, PHASE_OPEN, room_err));
	assert_ok(wire_watch(&link_to_init, &loop, on_init, &link_to_init, room_err));
	resolve_init(&resolver, &loop, &link_to_init);
	return 0;
}

static int
play_end(void **state)
{
	(void)state;
	assert_null(resolver.questions);
	assert_int_equal(resolver.waiting, 0);
	assert_int_equal(resolver.asked, 0);
	wire_close(&link_to_init);
	wire_close(&far);
	loop_done(&loop);
	return 0;
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

static uint32_t
ask(const char *name)
{
	uint32_t number = 0;
	assert_ok(resolve_ask(&resolver, str_of(name), 7, 8, on_told, &told, &number, room_err));
	assert_int_not_equal(number, 0);
	return number;
}

/* What init hears next: the write end of its pipe. */
static int
heard(const char *name)
{
	assert_ok(wire_recv_wait(&far, time_now_ns() + WAIT_NS, room_err));
	assert_int_equal(far.message.id, MSG_init_resolve);
	assert_true(str_is(far.message.init_resolve.name, name));
	assert_int_equal(far.message.init_resolve.uid, 7);
	assert_int_equal(far.message.init_resolve.gid, 8);
	return fd_steal(&far.message.fds[0]);
}

static bool
init_has_heard(void)
{
	struct pollfd p = {.fd = far.fd, .events = POLLIN};
	return poll(&p, 1, 0) == 1;
}

static void
turn_until(unsigned times)
{
	const uint64_t deadline_ns = time_now_ns() + WAIT_NS;
	while (told.times < times) {
		assert_true(time_now_ns() < deadline_ns);
		assert_ok(loop_turn(&loop, NS_PER_S, room_err));
	}
	assert_int_equal(told.times, times);
	assert_int_equal(told.failure.code == ERR_NONE, told.n > 0);
}

/* A child says these bytes and ends. */
static void
say(const void *bytes, size_t n)
{
	told = (struct told){.n = 0};
	ask("db.example");
	const unsigned before = open_files();
	const int fd = heard("db.example");
	if (n)
		assert_int_equal(write(fd, bytes, n), n);
	close(fd);
	turn_until(1);
	assert_int_equal(open_files(), before - 1);
}

#define FOUR(a, b, c, d) "\4" a b c d "\0\0\0\0\0\0\0\0\0\0\0\0"
#define SIX                                                                                        \
	"\6"                                                                                       \
	"\x20\1\xd\xb8\0\0\0\0\0\0\0\0\0\0\0\1"

static void
test_addresses_come_in_the_order_of_the_answer(void **state)
{
	(void)state;
	static const char answer[] = "\1" SIX FOUR("\x0a", "\0", "\0", "\1");
	say(answer, sizeof answer - 1);
	assert_int_equal(told.n, 2);
	assert_int_equal(told.found[0].family, 6);
	assert_memory_equal(told.found[0].bytes, SIX + 1, 16);
	assert_int_equal(told.found[1].family, 4);
	assert_memory_equal(told.found[1].bytes, "\x0a\0\0\1", 4);
}

static void
test_an_answer_in_pieces_is_one(void **state)
{
	(void)state;
	static const char answer[] = "\1" FOUR("\x7f", "\0", "\0", "\1");
	ask("db.example");
	const int fd = heard("db.example");
	for (size_t i = 0; i + 1 < sizeof answer; i++) {
		assert_int_equal(write(fd, answer + i, 1), 1);
		assert_ok(loop_turn(&loop, NS_PER_S, room_err));
		assert_int_equal(told.times, 0); /* not before its end */
	}
	close(fd);
	turn_until(1);
	assert_int_equal(told.n, 1);
}

static void
test_each_reason_has_its_words(void **state)
{
	static const struct {
		enum resolve_result result;
		enum err_code code;
		const char *why;
	} all[] = {
	    {RESOLVE_UNKNOWN, ERR_ABSENT, "no host db.example is known"},
	    {RESOLVE_NO_SERVER, ERR_ABSENT, "no name server can be asked"},
	    {RESOLVE_SILENT, ERR_TIMEOUT, "no name server of the session answered"},
	    {RESOLVE_FAILED, ERR_UNAVAILABLE, "could not be resolved"},
	    {RESOLVE_BUSY, ERR_UNAVAILABLE, "too many names"},
	};
	(void)state;
	for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
		const uint8_t byte = (uint8_t)all[i].result;
		say(&byte, 1);
		assert_int_equal(told.failure.code, all[i].code);
		assert_non_null(strstr(told.failure.why, all[i].why));
	}
	say("", 0);
	assert_non_null(strstr(told.failure.why, "nothing was said of db.example"));
}

static void
test_lies_and_garbage_are_no_answer(void **state)
{
	(void)state;
	uint8_t bytes[4096];
#define refused(text)                                                                              \
	do {                                                                                       \
		say(text, sizeof(text) - 1);                                                       \
		assert_int_equal(told.failure.code, ERR_CORRUPT);                                  \
	} while (0)
	refused("\0");
	refused("\1");
	refused("\7");
	refused("\xff");
	refused("\1\4\1\2\3\4");
	refused("\2" FOUR("\1", "\2", "\3", "\4")); /* a failure with addresses */
	refused("\0" FOUR("\1", "\2", "\3", "\4"));
	refused("\1"
		"\5\1\2\3\4\0\0\0\0\0\0\0\0\0\0\0\0"); /* no such family */
	refused("\1"
		"\4\1\2\3\4\0\0\0\0\0\0\0\0\0\0\0\1");   /* more than an address */
	refused("\1" FOUR("\1", "\2", "\3", "\4") "\4"); /* half of another one */
	refused("\1" FOUR("\1", "\2", "\3", "\4") FOUR("\1", "\2", "\3", "\4") "\0" SIX);
	memset(bytes, 4, sizeof bytes);
	bytes[0] = RESOLVE_FOUND;
	for (size_t n = 2; n < 200; n++) { /* of each length */
		say(bytes, n);
		assert_int_equal(told.failure.code, ERR_CORRUPT);
	}
	say(bytes, sizeof bytes); /* too long */
	assert_int_equal(told.failure.code, ERR_CORRUPT);
	unsigned seed = 1;
	for (int i = 0; i < 2000; i++) { /* anything: an end, and no more than there is room for */
		const size_t n = (size_t)rand_r(&seed) % 160;
		for (size_t k = 0; k < n; k++)
			bytes[k] = (uint8_t)rand_r(&seed);
		if (n && i % 2)
			bytes[0] = RESOLVE_FOUND;
		say(bytes, n);
		assert_true(told.n <= RESOLVE_MOST);
	}
}

static void
test_as_many_as_there_is_room_for(void **state)
{
	(void)state;
	uint8_t bytes[1 + (RESOLVE_MOST + 1) * EACH_BYTES] = {RESOLVE_FOUND};
	for (size_t i = 0; i <= RESOLVE_MOST; i++)
		bytes[1 + i * EACH_BYTES] = i % 2 ? 4 : 6;
	say(bytes, sizeof bytes - EACH_BYTES);
	assert_int_equal(told.n, RESOLVE_MOST);
	say(bytes, sizeof bytes);
	assert_int_equal(told.n, 0);
	assert_int_equal(told.failure.code, ERR_CORRUPT);
}

/* A child that writes on and on, and never ends, is read no further. */
static void
test_who_does_not_end_is_cut_at_its_length(void **state)
{
	(void)state;
	uint8_t bytes[65536] = {RESOLVE_FOUND};
	ask("db.example");
	const int fd = heard("db.example");
	assert_int_equal(write(fd, bytes, sizeof bytes), sizeof bytes);
	turn_until(1);
	assert_int_equal(told.failure.code, ERR_CORRUPT);
	struct pollfd p = {.fd = fd};
	assert_int_equal(poll(&p, 1, 0), 1); /* nobody reads it any more */
	assert_true(p.revents & POLLERR);
	close(fd);
}

static void
test_who_says_nothing_has_a_deadline(void **state)
{
	(void)state;
	ask("db.example");
	const int fd = heard("db.example");
	struct question *q = resolver.questions;
	assert_in_range(q->deadline.deadline_ns, time_now_ns(), time_now_ns() + ANSWER_MAX_NS);
	timer_set(&loop, &q->deadline, time_now_ns(), on_deadline, q); /* it is now */
	turn_until(1);
	assert_int_equal(told.failure.code, ERR_TIMEOUT);
	assert_non_null(strstr(told.failure.why, "the address of db.example inside"));
	close(fd);
}

static void
test_who_cancels_hears_no_more(void **state)
{
	(void)state;
	const unsigned before = open_files();
	const uint32_t number = ask("db.example");
	const int fd = heard("db.example");
	resolve_cancel(&resolver, number);
	resolve_cancel(&resolver, number);
	resolve_cancel(&resolver, 0);
	close(fd);
	assert_ok(loop_turn(&loop, 0, room_err));
	assert_int_equal(told.times, 0);
	assert_int_equal(open_files(), before);
}

static void
test_some_at_once_and_the_others_wait(void **state)
{
	(void)state;
	struct err err;
	int fds[AT_ONCE];
	uint32_t numbers[RESOLVE_WAITING_MAX], number;
	for (int i = 0; i < RESOLVE_WAITING_MAX; i++) {
		char name[32];
		snprintf(name, sizeof name, "n%d", i);
		numbers[i] = ask(name);
	}
	assert_int_equal(
	    resolve_ask(&resolver, STR_LIT("more"), 7, 8, on_told, &told, &number, &err), -1);
	assert_int_equal(err.code, ERR_UNAVAILABLE);
	for (int i = 0; i < AT_ONCE; i++) {
		char name[32];
		snprintf(name, sizeof name, "n%d", i);
		fds[i] = heard(name);
	}
	assert_false(init_has_heard());
	resolve_cancel(&resolver, numbers[AT_ONCE]); /* one that waits */
	close(fds[1]);
	turn_until(1);
	close(heard("n9"));
	turn_until(2);
	close(heard("n10"));
	for (int i = 0; i < AT_ONCE; i++)
		if (i != 1)
			close(fds[i]);
	wire_close(&far); /* init is gone: all that wait are told, once each */
	turn_until(RESOLVE_WAITING_MAX - 1);
	assert_int_equal(
	    resolve_ask(&resolver, STR_LIT("more"), 7, 8, on_told, &told, &number, &err), -1);
}

static void
test_what_can_be_a_name(void **state)
{
	char text[300];
	static const char *const no[] = {"",      "-a",  ".a",   "a b",  "a/b",      "a\nb", "::1",
					 "[::1]", "a%1", "a:80", "a\\b", "\xc3\xa9", "a,b",  "*"};
	static const char *const yes[] = {"a", "db", "DB.example.", "x_y.z-1", "127.1", "1"};
	(void)state;
	for (size_t i = 0; i < sizeof no / sizeof *no; i++)
		assert_false(resolve_is_name(str_of(no[i])));
	for (size_t i = 0; i < sizeof yes / sizeof *yes; i++)
		assert_true(resolve_is_name(str_of(yes[i])));
	memset(text, 'a', sizeof text);
	assert_true(resolve_is_name((struct str){text, 253}));
	assert_false(resolve_is_name((struct str){text, 254}));
	assert_false(resolve_is_name((struct str){"a\0b", 3}));
}

int
main(void)
{
#define P(name) cmocka_unit_test_setup_teardown(name, play, play_end)
	const struct CMUnitTest tests[] = {
	    P(test_addresses_come_in_the_order_of_the_answer),
	    P(test_an_answer_in_pieces_is_one),
	    P(test_each_reason_has_its_words),
	    P(test_lies_and_garbage_are_no_answer),
	    P(test_as_many_as_there_is_room_for),
	    P(test_who_does_not_end_is_cut_at_its_length),
	    P(test_who_says_nothing_has_a_deadline),
	    P(test_who_cancels_hears_no_more),
	    P(test_some_at_once_and_the_others_wait),
	    P(test_what_can_be_a_name),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
