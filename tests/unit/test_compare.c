#include "snapshot/compare.c"

#include "tree_room.h"

static void
test_records_come_back_in_order_as_often_as_wanted(void **state)
{
	enum { N = 20000 };
	auto_compare c = COMPARE_NONE;
	struct err err;
	char path[400];

	(void)state;
	must(compare_begin(&c, room.scratch, &err), &err);
	assert_no_temp(room.scratch); /* it has no name, so nothing can be left of it */
	for (uint64_t i = 0; i < N; i++) {
		struct seen s = {.ino = i, .size = i * i};
		snprintf(path, sizeof path, "%0*llu", (int)(i % 300 + 6), (unsigned long long)i);
		must(compare_add(&c, str_of(path), &s, &err), &err);
	}
	for (int round = 0; round < 2; round++) {
		must(compare_rewind(&c, &err), &err);
		for (uint64_t i = 0; i < N; i++) {
			assert_true(c.have);
			snprintf(path, sizeof path, "%0*llu", (int)(i % 300 + 6),
				 (unsigned long long)i);
			assert_string_equal(buf_cstr(&c.path), path);
			assert_int_equal(c.seen.ino, i);
			assert_int_equal(c.seen.size, i * i);
			must(compare_next(&c, &err), &err);
		}
		assert_false(c.have);
	}
}

static void
test_a_path_of_the_greatest_size(void **state)
{
	auto_compare c = COMPARE_NONE;
	struct err err;
	struct seen s = {.ino = 7};
	char *path = malloc(ENTRY_PATH_MAX_BYTES);

	(void)state;
	memset(path, 'p', ENTRY_PATH_MAX_BYTES);
	must(compare_begin(&c, room.scratch, &err), &err);
	for (int i = 0; i < 3; i++)
		must(compare_add(&c, (struct str){path, ENTRY_PATH_MAX_BYTES}, &s, &err), &err);
	must(compare_rewind(&c, &err), &err);
	for (int i = 0; i < 3; i++) {
		assert_true(c.have);
		assert_int_equal(c.path.len, ENTRY_PATH_MAX_BYTES);
		must(compare_next(&c, &err), &err);
	}
	assert_false(c.have);
	free(path);
}

static void
test_each_change_of_a_file_makes_a_difference(void **state)
{
	static const struct stat base = {
	    .st_ino = 1, .st_size = 2, .st_nlink = 1, .st_mode = S_IFREG | 0644};
	const struct seen a = seen_of(&base, ENTRY_FILE, INT64_MAX);
	struct stat st = base;

	(void)state;
	assert_false(a.flags & SEEN_RACY);
	struct seen b = seen_of(&st, ENTRY_FILE, INT64_MAX);
	assert_true(seen_same(&a, &b));
#define DIFFERS(change)                                                                            \
	st = base;                                                                                 \
	change;                                                                                    \
	b = seen_of(&st, ENTRY_FILE, INT64_MAX);                                                   \
	assert_false(seen_same(&a, &b))
	DIFFERS(st.st_ino = 2);
	DIFFERS(st.st_size = 3);
	DIFFERS(st.st_nlink = 2);
	DIFFERS(st.st_mode = S_IFREG | 0645);
	DIFFERS(st.st_mode = S_IFIFO | 0644);
	DIFFERS(st.st_uid = 1);
	DIFFERS(st.st_gid = 1);
	DIFFERS(st.st_mtim.tv_nsec = 1);
	DIFFERS(st.st_ctim.tv_nsec = 1);
	st = base;
	st.st_ctim.tv_nsec = 100;
	assert_true(seen_of(&st, ENTRY_FILE, 100).flags & SEEN_RACY);
	assert_false(seen_of(&st, ENTRY_FILE, 101).flags & SEEN_RACY);
}

int
main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, room_open, room_close)
	const struct CMUnitTest tests[] = {
	    T(test_records_come_back_in_order_as_often_as_wanted),
	    T(test_a_path_of_the_greatest_size),
	    T(test_each_change_of_a_file_makes_a_difference),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
