/* Invariants of quota.c, on the filesystem of BERTH_QUOTA_DIR or /var/tmp: where that has project
 * quotas (tests/vm), else that the probe says so and leaves nothing. */
#include "server/manager/quota.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { BASE = 0x70000000 };

static struct {
	char top[512];
	int dir;
	bool has;
	char missing[600];
} room;

#define assert_ok(call)                                                                            \
	do {                                                                                       \
		struct err room_why = {.code = ERR_NONE};                                          \
		struct err *const room_err = &room_why;                                            \
		if ((call) < 0)                                                                    \
			fail_msg("%s: %s", #call, room_why.why);                                   \
	} while (0)

static int
room_open(void **state)
{
	const char *at = getenv("BERTH_QUOTA_DIR");
	struct err err = {0};

	(void)state;
	snprintf(room.top, sizeof room.top, "%s/berth-quota-XXXXXX", at ? at : "/var/tmp");
	assert_non_null(mkdtemp(room.top));
	room.dir = open(room.top, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	room.has = quota_probe(room.dir, BASE, &err) == 0;
	snprintf(room.missing, sizeof room.missing, "%s", err.why);
	return 0;
}

static int
room_close(void **state)
{
	struct err err;

	(void)state;
	auto_close int root = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	close(room.dir);
	return path_remove_tree(root, room.top + 1, &err);
}

static void
room_or_skip(void)
{
	if (room.has)
		return;
	print_message("skipped: %s\n", room.missing);
	skip();
}

static void
test_the_probe_says_what_is_missing_and_leaves_nothing(void **state)
{
	(void)state;
	assert_true(room.has || room.missing[0]);
	assert_false(path_exists(room.dir, "quota"));
}

static void
test_each_directory_is_a_project_of_its_own_and_is_found_again(void **state)
{
	uint32_t project[2], found;
	char name[16];

	(void)state;
	room_or_skip();
	for (int i = 0; i < 2; i++) {
		snprintf(name, sizeof name, "p%d", i);
		auto_close int dir = -1;
		assert_ok(dir = path_open_dir(room.dir, name, 0700, room_err));
		assert_ok(quota_find(dir, BASE, &found, room_err));
		assert_int_equal(found, 0);
		assert_ok(quota_begin(dir, BASE, &project[i], room_err));
		assert_true(project[i] >= BASE);
		auto_close int below = -1;
		assert_ok(below = path_open_dir(dir, "below", 0700, room_err));
		assert_ok(quota_find(below, BASE, &found, room_err));
		assert_int_equal(found, project[i]);
	}
	assert_int_not_equal(project[0], project[1]);
}

static void
test_a_limit_binds_moves_and_is_lifted(void **state)
{
	uint32_t project;
	uint64_t used = 0;

	(void)state;
	room_or_skip();
	auto_close int dir = -1;
	assert_ok(dir = path_open_dir(room.dir, "limit", 0700, room_err));
	assert_ok(quota_begin(dir, BASE, &project, room_err));
	assert_ok(quota_limit(dir, project, PROBE_BYTES, room_err));
	assert_ok(see_it_refused(dir, room_err));
	assert_ok(quota_read(dir, project, &used, room_err));
	assert_in_range(used, 1, PROBE_BYTES);
	assert_int_equal(unlinkat(dir, "probe", 0), 0);
	assert_ok(quota_limit(dir, project, 0, room_err));
	struct err err;
	assert_int_equal(see_it_refused(dir, &err), -1);
	assert_ok(quota_read(dir, project, &used, room_err));
	assert_true(used >= 4 * PROBE_BYTES);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_the_probe_says_what_is_missing_and_leaves_nothing),
	    cmocka_unit_test(test_each_directory_is_a_project_of_its_own_and_is_found_again),
	    cmocka_unit_test(test_a_limit_binds_moves_and_is_lifted),
	};
	return cmocka_run_group_tests(tests, room_open, room_close);
}
