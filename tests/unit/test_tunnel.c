/* Forwards, as a conn asks for them: what is refused, and what that costs. */
#define main keeper_main
#include "server/keeper/keeper.c"
#undef main
#include "server/keeper/tunnel.c"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <sys/mman.h>

#define MUST(call)                                                                                 \
	do {                                                                                       \
		struct err err;                                                                    \
		if ((call) < 0)                                                                    \
			fail_msg("%s", err.why);                                                   \
	} while (0)

/* A keeper with a spool and one grant; the test is its conn. */
struct room {
	struct keeper k;
	struct grant g;
	struct wire conn;
};

static int
room_up(void **state)
{
	struct room *r = xnew(1, sizeof *r);
	int pair[2];

	MUST(loop_init(&r->k.loop, &err));
	r->k.spool = (struct spool){.fd = memfd_create("spool", MFD_CLOEXEC), .next = 1};
	r->k.manager.fd = r->k.init.fd = -1;
	r->g.keeper = &r->k;
	MUST(wire_pair(pair, &err));
	MUST(wire_open(&r->g.conn, pair[0], ROLE_KEEPER, ROLE_CONN, PHASE_OPEN, &err));
	MUST(wire_open(&r->conn, pair[1], ROLE_CONN, ROLE_KEEPER, PHASE_OPEN, &err));
	*state = r;
	return 0;
}

static int
room_down(void **state)
{
	struct room *r = *state;

	wire_close(&r->g.conn);
	wire_close(&r->conn);
	loop_done(&r->k.loop);
	fd_close(&r->k.spool.fd);
	free(r);
	return 0;
}

static uint32_t
refused_with(struct room *r)
{
	const struct msg_forward_open m = {.request = 7, .host = STR_LIT("127.0.0.1"), .port = 80};

	MUST(tunnel_open(&r->g, &m, &err));
	MUST(wire_recv_wait(&r->conn, time_now_ns() + 10 * NS_PER_S, &err));
	assert_int_equal(r->conn.message.id, MSG_forward_failed);
	return r->conn.message.forward_failed.code;
}

static void
a_refusal_is_recorded(void **state)
{
	struct room *r = *state;

	assert_int_equal(refused_with(r), ERR_DENIED);
	assert_int_equal(r->k.spool.next, 2);
	assert_null(r->k.tunnels);
}

static void
forwards_leave_the_room_that_ends_of_calls_need(void **state)
{
	struct room *r = *state;

	r->k.spool.end_at = SPOOL_MAX_BYTES / 2;
	assert_int_equal(refused_with(r), ERR_DENIED);
	r->g.forwards = FORWARD_CONNECTS;
	r->g.allow.flags = ALLOW_ALL;
	assert_int_equal(refused_with(r), ERR_AGAIN);
	assert_int_equal(r->k.spool.end_at, SPOOL_MAX_BYTES / 2);
	assert_null(r->k.tunnels);
}

int
main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, room_up, room_down)
	const struct CMUnitTest tests[] = {
	    T(a_refusal_is_recorded),
	    T(forwards_leave_the_room_that_ends_of_calls_need),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
