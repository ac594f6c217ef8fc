/* Links to conns that end while the keeper walks its calls. */
#include "keeper_room.h"

/* Now this conn is who asks and is told. */
static void
swap(struct rig *r, struct wire *other)
{
	const struct wire was = r->conn;

	r->conn = *other;
	*other = was;
}

static void
wait_stopped(pid_t pid)
{
	int status;

	assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
	assert_true(WIFSTOPPED(status));
}

/* A's end makes B the owner of a call that both had asked for. B is gone too, but the keeper has not
 * heard of it yet: telling it fails, in the middle of the walk over the calls that A leaves. B's own
 * end cancels a call that stands next in that walk; behind it is another one of A's, which must be
 * left as well. */
static void
a_link_that_fails_within_a_walk_over_calls_loses_no_call_of_it(void **state)
{
	struct rig *r = *state;
	struct seen in, left, waits, key, again;
	struct wire b;

	grant_conn(r, 2, &b);
	swap(r, &b);
	ask_with(r, &in, 1, "exec sleep 1000", false, STR_LIT("BERTH_SHELL=s\0"));
	started(r, &in);
	swap(r, &b);
	ask(r, &left, 2, "exec sleep 1000", false); /* A's, the last of the walk */
	started(r, &left);
	swap(r, &b);
	ask_with(r, &waits, 3, "true", false, STR_LIT("BERTH_SHELL=s\0")); /* B's end cancels it */
	started(r, &waits);
	swap(r, &b);
	ask_with(r, &key, 4, "read x; echo got $x; exit 6", false, STR_LIT("BERTH_CALL=k\0"));
	started(r, &key);
	swap(r, &b);
	ask_with(r, &again, 5, "read x; echo got $x; exit 6", false, STR_LIT("BERTH_CALL=k\0"));
	started(r, &again);
	assert_true(again.joined && again.live);
	swap(r, &b);

	turn(r); /* what they said is heard, and neither waits to be looked at */
	assert_int_equal(kill(r->keeper, SIGSTOP), 0);
	wait_stopped(r->keeper);
	wire_close(&r->conn); /* A first: its end is what the keeper hears first */
	wire_close(&b);
	assert_int_equal(kill(r->keeper, SIGCONT), 0);

	bool closed[3] = {false};
	while (!closed[1] || !closed[2] || r->records[1] < 3) { /* in, left and waits have ended */
		MUST(wire_recv_wait(&r->manager, time_now_ns() + patience, err));
		if (r->manager.message.id == MSG_call_record) {
			take_record(r);
			continue;
		}
		assert_int_equal(r->manager.message.id, MSG_grant_closed);
		assert_true(r->manager.message.grant_closed.grant <= 2);
		closed[r->manager.message.grant_closed.grant] = true;
	}
	done_with(&again);
	grant_conn(r, 3, &r->conn);
	ask_with(r, &again, 1, "read x; echo got $x; exit 6", false, STR_LIT("BERTH_CALL=k\0"));
	started(r, &again);
	assert_true(again.joined && again.live);
	assert_string_equal(again.call, key.call);
	assert_int_equal(write(again.input, "it\n", 3), 3);
	finish_call(r, &again);
	assert_string_equal(buf_cstr(&again.out), "got it\n");
	assert_int_equal(again.status, 6);
	done_with(&again);
	done_with(&in);
	done_with(&left);
	done_with(&waits);
	done_with(&key);
}

int
main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, rig_up, rig_down)
	const struct CMUnitTest tests[] = {
	    T(a_link_that_fails_within_a_walk_over_calls_loses_no_call_of_it),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
