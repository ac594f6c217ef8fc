#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <sys/eventfd.h>

#include "snapshot/base/loop.c"

static int order[64], n_order;

static void
note(void *ctx)
{
	order[n_order++] = *(int *)ctx;
}

static void
timers_run_in_order_of_their_deadlines(void **state)
{
	struct loop l;
	struct err err;
	struct timer t[16] = {0};
	int ids[16];

	(void)state;
	n_order = 0;
	assert_int_equal(loop_init(&l, &err), 0);
	const uint64_t now = time_now_ns();
	for (int i = 0; i < 16; i++) {
		ids[i] = i * 7 % 16;
		timer_set(&l, &t[i], now - 1000 + (uint64_t)ids[i], note, &ids[i]);
	}
	timer_cancel(&t[3]); /* id 5 */
	timer_cancel(&t[3]);
	assert_int_equal(loop_turn(&l, 0, &err), 0);
	assert_int_equal(n_order, 15);
	for (int i = 1; i < n_order; i++)
		assert_true(order[i] > order[i - 1]);
	loop_done(&l);
}

struct two {
	struct loop l;
	struct watch a, b;
	int fd_a, fd_b, calls;
};

static void
remove_both(void *ctx, uint32_t events)
{
	struct two *t = ctx;

	(void)events;
	t->calls++;
	watch_remove(&t->a);
	watch_remove(&t->b);
}

static void
a_watch_removed_in_a_turn_gets_no_event_of_that_turn(void **state)
{
	struct two t = {0};
	struct err err;

	(void)state;
	assert_int_equal(loop_init(&t.l, &err), 0);
	t.fd_a = eventfd(1, EFD_CLOEXEC);
	t.fd_b = eventfd(1, EFD_CLOEXEC);
	assert_int_equal(watch_add(&t.l, &t.a, t.fd_a, EPOLLIN, remove_both, &t, &err), 0);
	assert_int_equal(watch_add(&t.l, &t.b, t.fd_b, EPOLLIN, remove_both, &t, &err), 0);
	assert_int_equal(loop_turn(&t.l, 0, &err), 0);
	assert_int_equal(t.calls, 1);
	close(t.fd_a);
	close(t.fd_b);
	loop_done(&t.l);
}

static void
deferred_work_runs_at_the_turns_end(void **state)
{
	struct loop l;
	struct err err;
	int one = 1, two = 2;

	(void)state;
	n_order = 0;
	assert_int_equal(loop_init(&l, &err), 0);
	loop_defer(&l, note, &one);
	loop_defer(&l, note, &two);
	assert_int_equal(loop_turn(&l, UINT64_MAX, &err), 0); /* does not wait */
	assert_int_equal(n_order, 2);
	assert_int_equal(order[0], 1);
	loop_done(&l);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(timers_run_in_order_of_their_deadlines),
	    cmocka_unit_test(a_watch_removed_in_a_turn_gets_no_event_of_that_turn),
	    cmocka_unit_test(deferred_work_runs_at_the_turns_end),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
