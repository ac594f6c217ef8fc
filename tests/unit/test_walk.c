#include "snapshot/walk.c"

#include "tree_room.h"

static struct buf seen;
static const char *remove_at; /* when this path is entered, its directory's entry "z" goes */

static int
on_entry(void *ctx, const struct walk_entry *e, struct err *err)
{
	(void)ctx;
	(void)err;
	buf_fmt(&seen, "+%.*s ", (int)e->path.len, e->path.len ? e->path.at : "");
	if (remove_at && str_is(e->path, remove_at))
		ok(unlinkat(e->dir, "z", 0));
	return 0;
}

static int
on_leave(void *ctx, struct str dir, struct err *err)
{
	(void)ctx;
	(void)err;
	buf_fmt(&seen, "-%.*s ", (int)dir.len, dir.len ? dir.at : "");
	return 0;
}

static const char *
walk(uint64_t *skipped)
{
	static const struct walk_calls calls = {on_entry, on_leave};
	struct err err;
	buf_clear(&seen);
	must(walk_tree(room.upper, &calls, NULL, skipped, &err), &err);
	return buf_cstr(&seen);
}

static void
test_the_order_is_that_of_the_bytes(void **state)
{
	uint64_t skipped;
	(void)state;
	static const char *const dirs[] = {"b", "b/x", "a", "run", "run/in"};
	for (size_t i = 0; i < 5; i++)
		ok(mkdirat(room.upper, dirs[i], 0755));
	put_text(room.upper, "b/x/1", "");
	put_text(room.upper, "b.c", "");
	put_text(room.upper, "b-", "");
	put_text(room.upper, "\xff", "");
	put_text(room.upper, "B", "");
	ok(symlinkat("/", room.upper, "c"));
	assert_string_equal(walk(&skipped),
			    "+ +B +a -a +b +b/x +b/x/1 -b/x -b +b- +b.c +c +run -run "
			    "+\xff - ");
	assert_int_equal(skipped, 0);
}

static void
test_the_walk_and_its_order_agree(void **state)
{
	static const char *const sorted[] = {"",   "B",    "a",  "a/b", "a/b/c", "a/b-",
					     "a-", "a-/b", "a.", "a0",  "\xff"};
	enum { N = sizeof sorted / sizeof *sorted };
	(void)state;
	for (int i = 0; i < N; i++)
		for (int k = 0; k < N; k++)
			assert_int_equal(walk_order(str_of(sorted[i]), str_of(sorted[k])),
					 i < k ? -1 : i > k);
	assert_true(walk_is_below(STR_LIT("a/b"), STR_LIT("a")));
	assert_true(walk_is_below(STR_LIT("a"), STR_LIT("")));
	assert_false(walk_is_below(STR_LIT("ab"), STR_LIT("a")));
	assert_false(walk_is_below(STR_LIT("a"), STR_LIT("a")));
	assert_false(walk_is_below(STR_LIT(""), STR_LIT("")));
}

static void
test_what_vanishes_meanwhile_is_not_there(void **state)
{
	uint64_t skipped;
	(void)state;
	put_text(room.upper, "a", "");
	put_text(room.upper, "z", "");
	remove_at = "a";
	assert_string_equal(walk(&skipped), "+ +a - ");
	remove_at = NULL;
}

static int
done(void **state)
{
	buf_free(&seen);
	return room_close(state);
}

static int
begin(void **state)
{
	seen = BUF_MAX(1 << 20);
	return room_open(state);
}

int
main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, begin, done)
	const struct CMUnitTest tests[] = {
	    T(test_the_order_is_that_of_the_bytes),
	    T(test_the_walk_and_its_order_agree),
	    T(test_what_vanishes_meanwhile_is_not_there),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
