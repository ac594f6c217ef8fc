/* find.c: what each snapshot of a random history holds, by the views of it. */
#include "snapshot/find.c"

#include "view_room.h"

static unsigned long seed;

static unsigned
dice(unsigned n)
{
	seed = seed * 6364136223846793005ul + 1442695040888963407ul;
	return (unsigned)(seed >> 33) % n;
}

static void
change(void)
{
	static const char *const names[] = {"a", "a-b", "b", "c.txt"};
	char path[64], command[256];
	size_t n = 0;

	for (unsigned depth = 1 + dice(3); depth; depth--)
		n += (size_t)snprintf(path + n, 64 - n, "%s%s", n ? "/" : "", names[dice(4)]);
	const unsigned what = dice(5);
	if (what < 2)
		snprintf(command, sizeof command,
			 "cd %s/upper && test -d %s || { echo %u > %s; } 2>/dev/null || :",
			 room.path, path, dice(1000), path);
	else if (what < 4)
		snprintf(command, sizeof command,
			 "cd %s/upper && mkdir -p %s 2>/dev/null || :", room.path, path);
	else
		snprintf(command, sizeof command, "cd %s/upper && rm -rf %s", room.path, path);
	shell(command);
}

static struct view *views[ROOM_LAYERS_MAX];
static size_t n_told;

static int
judge(void *ctx, const struct find_path *p, struct err *err)
{
	bool is = false;
	size_t change_no = 0;

	(void)ctx;
	n_told++;
	for (size_t s = 0; s < layers.n; s++) {
		struct view_entry e;
		const int got = view_find(views[s], p->path, &e, err);
		must(got, err);
		assert_int_equal(p->held[s], got);
		if (change_no < p->n_changes && p->changes[change_no].snapshot == s) {
			const enum find_what what = p->changes[change_no++].what;
			assert_int_equal(what == FIND_APPEARED, got && !is);
			assert_int_equal(what == FIND_VANISHED, !got && is);
		} else {
			assert_int_equal(got, is);
		}
		is = got;
	}
	assert_int_equal(change_no, p->n_changes);
	return 0;
}

static void
test_each_snapshot_holds_what_is_said(void **state)
{
	const struct layer_options o = room_options(1);
	struct find_snapshot s[ROOM_LAYERS_MAX];
	struct err err;

	(void)state;
	seed = (unsigned long)getpid() * 2654435761u;
	print_message("seed %lu\n", seed);
	layers_begin();
	for (int i = 0; i < 10; i++) {
		for (int n = 0; n < 8; n++)
			change();
		layers_add();
	}
	for (size_t i = 0; i < layers.n; i++) {
		views[i] = view_of(i + 1);
		s[i] = (struct find_snapshot){layers.at, i + 1, i ? i - 1 : 0};
	}
	n_told = 0;
	must(find_paths(&o, STR_LIT("*"), s, layers.n, judge, NULL, &err), &err);
	assert_true(n_told > 5);
	const size_t all = n_told;
	n_told = 0;
	must(find_paths(&o, STR_LIT("c.txt"), s, layers.n, judge, NULL, &err), &err);
	assert_true(n_told < all);
	n_told = 0;
	must(find_paths(&o, STR_LIT("/a*"), s, layers.n, judge, NULL, &err), &err);
	assert_true(n_told < all);
	for (size_t i = 0; i < layers.n; i++)
		view_free(views[i]);
	layers_end();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_each_snapshot_holds_what_is_said, room_open,
					    room_close),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
