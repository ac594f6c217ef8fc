/* Calls that wait for their named shell: what they have used up when they never run, what they are
 * blamed for, and how long their stdin is held. The keeper's clock goes on when a test says so. */
#define time_now_ns true_now_ns
#include "snapshot/base/time.c"
#undef time_now_ns
uint64_t time_now_ns(void);

#include "keeper_room.h"

#include <sys/mman.h>

static uint64_t *ahead_ns; /* shared with the keeper */

uint64_t
time_now_ns(void)
{
	return true_now_ns() + __atomic_load_n(ahead_ns, __ATOMIC_RELAXED);
}

static int
clock_up(void **state)
{
	__atomic_store_n(ahead_ns, 0, __ATOMIC_RELAXED);
	return rig_up(state);
}

static void
pass(struct rig *r, uint64_t ns)
{
	__atomic_fetch_add(ahead_ns, ns, __ATOMIC_RELAXED);
	turn(r);
}

#define IN_SHELL STR_LIT("BERTH_SHELL=s\0")
#define WITH_KEY STR_LIT("BERTH_SHELL=s\0BERTH_CALL=k\0")

/* One call is in the shell until it gets a line, another one with a key waits for it. */
static void
fill_shell(struct rig *r, struct seen *in, struct seen *waits)
{
	ask_with(r, in, 7, "read x; exit 3", false, IN_SHELL);
	started(r, in);
	ask_with(r, waits, 8, "echo ran; exit 5", false, WITH_KEY);
	started(r, waits);
	assert_false(waits->joined);
}

static void
leave_shell(struct rig *r, struct seen *in)
{
	assert_int_equal(write(in->input, "x\n", 2), 2);
	finish_call(r, in);
	assert_int_equal(in->status, 3);
	done_with(in);
}

static void
never_ran(struct rig *r, struct seen *waits, const char *ended_by)
{
	take(r, waits, 1);
	assert_true(waits->told);
	assert_string_equal(waits->ended_by, ended_by);
	finish_call(r, waits);
	assert_int_equal(waits->out_bytes, 0);
	done_with(waits);
}

/* Asked for again with its key, it runs, and once. */
static void
runs_now(struct rig *r)
{
	struct seen s;

	for (int i = 0; i < 2; i++) {
		ask_with(r, &s, 9, "echo ran; exit 5", false, WITH_KEY);
		started(r, &s);
		assert_int_equal(s.joined, i == 1);
		if (i == 1) { /* its end is in the journal */
			assert_false(s.live);
			done_with(&s);
			continue;
		}
		finish_call(r, &s);
		assert_string_equal(buf_cstr(&s.out), "ran\n");
		assert_int_equal(s.status, 5);
		done_with(&s);
	}
}

/* ---- the claims ---- */

static void
a_pause_takes_no_key_of_one_that_waits(void **state)
{
	struct rig *r = *state;
	struct seen both[2];

	fill_shell(r, &both[0], &both[1]);
	MUST(wire_send(&r->manager, terminate, err, .seq = 3, .grace_ns = patience));
	command_done(r, 3);
	while (!both[0].told || !both[1].told)
		take(r, both, 2);
	assert_string_equal(both[0].ended_by, "pause");
	assert_string_equal(both[1].ended_by, "pause");
	done_with(&both[0]);
	done_with(&both[1]);
	runs_now(r);
}

static void
an_hour_of_waiting_takes_no_key(void **state)
{
	struct rig *r = *state;
	struct seen in, waits;

	fill_shell(r, &in, &waits);
	pass(r, 3601 * NS_PER_S);
	never_ran(r, &waits, "queue");
	leave_shell(r, &in);
	runs_now(r);
}

static void
one_that_is_killed_while_it_waits_leaves_its_key(void **state)
{
	struct rig *r = *state;
	struct seen in, waits;

	fill_shell(r, &in, &waits);
	MUST(wire_send(&r->manager, call_kill, err, .seq = 4, .call = str_of(waits.call),
		       .signal = SIGKILL));
	assert_int_equal(command_done(r, 4)->done.code, ERR_NONE);
	never_ran(r, &waits, "signal");
	leave_shell(r, &in);
	runs_now(r);
}

static void
one_whose_time_is_over_while_it_waits_leaves_its_key(void **state)
{
	struct rig *r = *state;
	struct seen in, waits;

	ask_with(r, &in, 7, "read x; exit 3", false, IN_SHELL);
	started(r, &in);
	ask_with(r, &waits, 8, "echo ran; exit 5", false,
		 STR_LIT("BERTH_SHELL=s\0BERTH_CALL=k\0BERTH_TIMEOUT=1m\0"));
	started(r, &waits);
	pass(r, 61 * NS_PER_S);
	never_ran(r, &waits, "timeout");
	leave_shell(r, &in);
	runs_now(r);
}

/* Its key cannot be written when its turn comes: the reason is told, and the key is free. */
static void
one_that_cannot_be_started_leaves_its_key(void **state)
{
	struct rig *r = *state;
	struct seen both[2];

	fill_shell(r, &both[0], &both[1]);
	assert_int_equal(mkdirat(r->dir, ONCE_NAME, 0700), 0);
	assert_int_equal(write(both[0].input, "x\n", 2), 2);
	while (!both[0].told || !both[1].told)
		take(r, both, 2);
	assert_int_equal(both[1].status, 75);
	assert_non_null(strstr(both[1].notice, "not run: keep the key of a call"));
	done_with(&both[0]);
	done_with(&both[1]);
	assert_int_equal(unlinkat(r->dir, ONCE_NAME, AT_REMOVEDIR), 0);
	runs_now(r);
}

static void
its_key_is_taken_while_it_waits(void **state)
{
	struct rig *r = *state;
	struct seen in, waits, other;

	fill_shell(r, &in, &waits);
	ask_with(r, &other, 9, "echo another", false, WITH_KEY);
	take(r, &other, 1);
	assert_true(other.refused);
	assert_int_equal(other.code, ERR_USAGE);
	done_with(&other);
	ask_with(r, &other, 9, "echo ran; exit 5", false, WITH_KEY);
	started(r, &other);
	assert_true(other.joined && other.live);
	assert_string_equal(other.call, waits.call);
	struct seen all[3] = {in, waits, other};
	assert_int_equal(write(in.input, "x\n", 2), 2);
	while (!all[0].told || !all[1].told || !all[2].told)
		take(r, all, 3);
	for (int i = 0; i < 3; i++) {
		read_journal(r, &all[i]);
		assert_int_equal(all[i].status, i ? 5 : 3);
		assert_string_equal(buf_cstr(&all[i].out), i ? "ran\n" : "");
		done_with(&all[i]);
	}
}

/* What the kernel killed before it began was not killed by it. */
static void
one_that_waited_is_not_blamed_for_who_was_before(void **state)
{
	struct rig *r = *state;
	struct seen both[2];

	fill_shell(r, &both[0], &both[1]);
	assert_int_equal(pwrite(r->memory_events, "oom_kill 1\n", 11, 0), 11);
	assert_int_equal(write(both[0].input, "x\n", 2), 2);
	while (!both[0].told || !both[1].told)
		take(r, both, 2);
	assert_string_equal(both[0].ended_by, "limit");
	assert_non_null(strstr(both[0].notice, "berth: call: out of memory")); /* it was alone */
	assert_string_equal(both[1].ended_by, "itself");
	assert_string_equal(both[1].notice, "");
	done_with(&both[0]);
	done_with(&both[1]);
}

/* ... and what it meets itself is told of it, for certain: nobody ran beside it. */
static void
one_that_waited_is_told_what_it_ran_into(void **state)
{
	struct rig *r = *state;
	struct seen in, waits;

	ask_with(r, &in, 7, "read x; exit 3", false, IN_SHELL);
	started(r, &in);
	ask_with(r, &waits, 8, "echo up; read x; exit 5", false, IN_SHELL);
	started(r, &waits);
	leave_shell(r, &in);
	while (waits.out_bytes < 3) {
		struct pollfd p = {.fd = waits.growth, .events = POLLIN};
		assert_int_equal(poll(&p, 1, 20000), 1);
		read_journal(r, &waits);
	}
	assert_int_equal(pwrite(r->memory_events, "oom_kill 1\n", 11, 0), 11);
	assert_int_equal(write(waits.input, "x\n", 2), 2);
	finish_call(r, &waits);
	assert_string_equal(waits.ended_by, "limit");
	assert_non_null(strstr(waits.notice, "berth: call: out of memory"));
	done_with(&waits);
}

static void
close_conn(struct rig *r)
{
	wire_close(&r->conn);
	assert_int_equal(manager_next(r)->id, MSG_grant_closed);
}

/* Its owner is gone while it waits: the minute for the next one begins when it can read. */
static void
stdin_is_held_from_when_the_command_can_read(void **state)
{
	struct rig *r = *state;
	struct seen in, waits, again;
	struct wire other;
	const char command[] = "echo up; read x; echo got $x; cat; exit 5";

	ask_with(r, &in, 7, "read x; exit 3", false, IN_SHELL);
	started(r, &in);
	grant_conn(r, 2, &other);
	struct wire first = r->conn;
	r->conn = other;
	ask_with(r, &waits, 8, command, false, WITH_KEY);
	started(r, &waits);
	close_conn(r);
	fd_close(&waits.input);
	r->conn = first;
	pass(r, 61 * NS_PER_S); /* the minute is not over, and begins anew when it runs */
	pass(r, 61 * NS_PER_S);
	pass(r, 31 * NS_PER_S);
	leave_shell(r, &in);
	while (waits.out_bytes < 3) { /* it runs */
		read_journal(r, &waits);
		turn(r);
	}
	pass(r, 45 * NS_PER_S); /* beside what the machine itself needs */
	ask_with(r, &again, 9, command, false, WITH_KEY);
	started(r, &again);
	assert_true(again.joined && again.live);
	assert_int_equal(write(again.input, "a line\n", 7), 7);
	fd_close(&again.input);
	MUST(wire_send(&r->conn, call_input_end, err, .channel = 9));
	finish_call(r, &again);
	assert_string_equal(buf_cstr(&again.out), "up\ngot a line\n");
	assert_int_equal(again.status, 5);
	done_with(&again);
	done_with(&waits);
}

static void
stdin_that_nobody_takes_up_ends_a_minute_later(void **state)
{
	struct rig *r = *state;
	struct seen in, waits;
	struct wire other;

	ask_with(r, &in, 7, "read x; exit 3", false, IN_SHELL);
	started(r, &in);
	grant_conn(r, 2, &other);
	struct wire first = r->conn;
	r->conn = other;
	ask_with(r, &waits, 8, "echo up; cat; echo end", false, WITH_KEY);
	started(r, &waits);
	close_conn(r);
	fd_close(&waits.input);
	r->conn = first;
	leave_shell(r, &in);
	while (waits.out_bytes < 3) {
		read_journal(r, &waits);
		turn(r);
	}
	pass(r, 61 * NS_PER_S);
	while (!waits.journal_ended) {
		read_journal(r, &waits);
		turn(r);
	}
	assert_string_equal(buf_cstr(&waits.out), "up\nend\n");
	done_with(&waits);
}

int
main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, clock_up, rig_down)
	const struct CMUnitTest tests[] = {
	    T(a_pause_takes_no_key_of_one_that_waits),
	    T(an_hour_of_waiting_takes_no_key),
	    T(one_that_is_killed_while_it_waits_leaves_its_key),
	    T(one_whose_time_is_over_while_it_waits_leaves_its_key),
	    T(one_that_cannot_be_started_leaves_its_key),
	    T(its_key_is_taken_while_it_waits),
	    T(one_that_waited_is_not_blamed_for_who_was_before),
	    T(one_that_waited_is_told_what_it_ran_into),
	    T(stdin_is_held_from_when_the_command_can_read),
	    T(stdin_that_nobody_takes_up_ends_a_minute_later),
	};
	ahead_ns = mmap(NULL, sizeof *ahead_ns, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return ahead_ns == MAP_FAILED ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
