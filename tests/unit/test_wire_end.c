/* What a peer said before it went away is heard: a keeper's last call_ended must not be lost. */
#include "server/wire/wire.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

struct ends {
	struct wire conn, keeper;
};

static int
set_up(void **state)
{
	static struct ends e;
	struct err err;
	int pair[2];

	assert_int_equal(wire_pair(pair, &err), 0);
	assert_int_equal(wire_open(&e.conn, pair[0], ROLE_CONN, ROLE_KEEPER, PHASE_OPEN, &err), 0);
	assert_int_equal(wire_open(&e.keeper, pair[1], ROLE_KEEPER, ROLE_CONN, PHASE_OPEN, &err), 0);
	assert_int_equal(wire_recv(&e.conn, &err), 0);
	assert_int_equal(wire_recv(&e.keeper, &err), 0);
	*state = &e;
	return 0;
}

static int
tear_down(void **state)
{
	struct ends *e = *state;

	wire_close(&e->conn);
	wire_close(&e->keeper);
	return 0;
}

static void
expect_last_words(struct ends *e)
{
	struct err err;

	assert_int_equal(wire_recv(&e->conn, &err), 1);
	assert_int_equal(e->conn.message.id, MSG_call_ended);
	assert_int_equal(e->conn.message.call_ended.exit_status, 7);
	assert_int_equal(wire_recv(&e->conn, &err), -1);
	assert_int_equal(err.code, ERR_UNAVAILABLE);
}

static void
though_it_left_something_unread(void **state)
{
	struct ends *e = *state;
	struct err err;

	assert_int_equal(wire_send(&e->conn, call_taken, &err, .channel = 1), 0);
	assert_int_equal(wire_send(&e->keeper, call_ended, &err, .channel = 1, .exit_status = 7), 0);
	wire_close(&e->keeper); /* the kernel now says ECONNRESET first */
	expect_last_words(e);
}

static void
though_messages_still_wait_for_it(void **state)
{
	static char command[131072];
	struct ends *e = *state;
	struct err err;

	memset(command, 'x', sizeof command);
	while (!e->conn.queue)
		assert_int_equal(wire_send(&e->conn, call_start, &err, .channel = 1,
					   .command = {command, sizeof command}), 0);
	assert_int_equal(wire_send(&e->keeper, call_ended, &err, .channel = 1, .exit_status = 7), 0);
	wire_close(&e->keeper);
	expect_last_words(e);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(though_it_left_something_unread, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(though_messages_still_wait_for_it, set_up, tear_down),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
