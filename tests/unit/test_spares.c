/* A spare's end, whoever comes first to it. */
#define main manager_main /* the rest of the manager comes with it */
#include "server/manager/manager.c"
#undef main
#include "server/manager/spares.c"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdlib.h>

struct room {
	char path[64];
	struct manager m;
};

static int
room_up(void **state)
{
	struct room *r = xnew(1, sizeof *r);
	struct err err;

	snprintf(r->path, sizeof r->path, "/tmp/spares.XXXXXX");
	assert_non_null(mkdtemp(r->path));
	r->m.spares_dir = open(r->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	r->m.keepers = r->m.spares_dir;
	r->m.node.cgroup = -1;
	r->m.node.uid_base = 0x20000000;
	for (size_t i = 0; i < sizeof r->m.node.governor / sizeof *r->m.node.governor; i++)
		r->m.node.governor[i].dir = -1;
	assert_int_equal(loop_init(&r->m.loop, &err), 0);
	*state = r;
	return 0;
}

static int
room_down(void **state)
{
	struct room *r = *state;

	close(r->m.spares_dir);
	assert_int_equal(rmdir(r->path), 0);
	free(r);
	return 0;
}

static struct session *
add(struct manager *m)
{
	struct err err;
	struct session *s = session_new_spare(m, &err);

	assert_non_null(s);
	assert_int_equal(mkdirat(m->spares_dir, s->row.id, 0700), 0);
	s->next = m->spares;
	m->spares = s;
	session_enter(s, STEP_START, time_now_ns() + START_MAX_NS, "its first process to start");
	return s;
}

static size_t
count(const struct manager *m)
{
	size_t n = 0;

	for (const struct session *s = m->spares; s; s = s->next)
		n++;
	return n;
}

static void
one_that_is_lost_when_all_end_is_removed_once(void **state)
{
	struct room *r = *state;
	struct err why;

	err_set(&why, ERR_UNAVAILABLE, "as a test wants it");
	add(&r->m);
	spares_lost(add(&r->m), &why);
	add(&r->m);
	spares_end(&r->m);
	assert_int_equal(count(&r->m), 0);
	loop_done(&r->m.loop); /* what was put off to the turn's end */
}

static void
those_that_are_lost_in_one_turn_go_and_the_others_stay(void **state)
{
	struct room *r = *state;
	struct err why;

	err_set(&why, ERR_UNAVAILABLE, "as a test wants it");
	spares_lost(add(&r->m), &why);
	struct session *stays = add(&r->m);
	spares_lost(add(&r->m), &why);
	assert_int_equal(count(&r->m), 3); /* their events may still be told */
	r->m.closing = true;               /* no others are made */
	timer_cancel(&r->m.spares_timer);
	assert_int_equal(loop_turn(&r->m.loop, 0, &why), 0);
	assert_int_equal(count(&r->m), 1);
	assert_ptr_equal(r->m.spares, stays);
	spares_end(&r->m);
	loop_done(&r->m.loop);
}

int
main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, room_up, room_down)
	const struct CMUnitTest tests[] = {
	    T(one_that_is_lost_when_all_end_is_removed_once),
	    T(those_that_are_lost_in_one_turn_go_and_the_others_stay),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
