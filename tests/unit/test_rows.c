#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <unistd.h>

#include "base/path.h"
#include "index/choice_rows.h"
#include "server/index/rows.c"

struct place {
	char name[64];
	int dir;
	struct index ix;
};

static int
make_place(void **state)
{
	static struct place p;
	struct err err;

	snprintf(p.name, sizeof p.name, "/tmp/berth-rows.XXXXXX");
	if (!mkdtemp(p.name))
		return -1;
	p.dir = open(p.name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	*state = &p;
	return index_open(&p.ix, p.dir, &err);
}

static int
remove_place(void **state)
{
	struct place *p = *state;
	struct err err;
	const int tmp = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	index_close(&p->ix);
	const int result = path_remove_tree(tmp, p->name + 5, &err);
	close(tmp);
	close(p->dir);
	return result;
}

static struct session_row
sample(const char *id, const char *name)
{
	struct session_row r = {.slot = 3, .upper = 2, .fence = 5, .created_ns = 10, .used_ns = 20, .has_head = true};
	snprintf(r.id, sizeof r.id, "%s", id);
	snprintf(r.name, sizeof r.name, "%s", name);
	snprintf(r.state, sizeof r.state, "paused");
	snprintf(r.labels, sizeof r.labels, "k=v");
	r.head.at[31] = 9;
	return r;
}

static int
take_session(void *ctx, const struct session_row *row, struct err *err)
{
	(void)err;
	*(struct session_row *)ctx = *row;
	return 0;
}

static void
a_session_reads_back_and_a_lower_fence_does_not_overwrite(void **state)
{
	struct place *p = *state;
	struct err err;
	struct session_row in = sample("s_a", "demo"), out = {0};

	assert_int_equal(index_put_session(&p->ix, &in, &err), 0);
	assert_int_equal(index_list_sessions(&p->ix, take_session, &out, &err), 0);
	assert_string_equal(out.name, "demo");
	assert_true(out.has_head && digest_equal(&in.head, &out.head) && out.slot == 3 && out.fence == 5);
	struct session_row stale = in;
	stale.fence = 4;
	stale.upper = 99;
	assert_int_equal(index_put_session(&p->ix, &stale, &err), -1);
	assert_int_equal(err.code, ERR_AGAIN);
	assert_int_equal(index_list_sessions(&p->ix, take_session, &out, &err), 0);
	assert_int_equal(out.upper, 2);
}

static void
a_head_moves_only_from_where_it_was_expected_and_by_its_owner(void **state)
{
	struct place *p = *state;
	struct err err;
	struct session_row in = sample("s_a", "demo"), out = {0};
	const struct digest old = in.head;

	assert_int_equal(index_put_session(&p->ix, &in, &err), 0);
	in.head.at[0] = 1;
	assert_int_equal(index_move_session(&p->ix, &in, &in.head, &err), -1);
	assert_int_equal(index_move_session(&p->ix, &in, NULL, &err), -1);
	in.fence = 4;
	assert_int_equal(index_move_session(&p->ix, &in, &old, &err), -1);
	in.fence = 5;
	assert_int_equal(index_move_session(&p->ix, &in, &old, &err), 0);
	assert_int_equal(index_list_sessions(&p->ix, take_session, &out, &err), 0);
	assert_int_equal(out.head.at[0], 1);
}

static void
two_live_sessions_cannot_share_a_name_but_a_deleted_one_may(void **state)
{
	struct place *p = *state;
	struct err err;
	struct session_row a = sample("s_a", "demo"), b = sample("s_b", "demo");

	assert_int_equal(index_put_session(&p->ix, &a, &err), 0);
	assert_int_equal(index_put_session(&p->ix, &b, &err), -1);
	snprintf(a.state, sizeof a.state, "deleted");
	assert_int_equal(index_put_session(&p->ix, &a, &err), 0);
	assert_int_equal(index_put_session(&p->ix, &b, &err), 0);
}

static int
count_layer(void *ctx, const struct layer_row *row, struct err *err)
{
	unsigned *n = ctx;

	(void)err;
	assert_int_equal(row->digest.at[0], ++*n); /* in their order */
	return 0;
}

static void
what_is_rolled_back_was_never_there(void **state)
{
	struct place *p = *state;
	struct err err;
	struct session_row s = sample("s_a", "demo");
	struct snapshot_row snap = {.session = "s_a", .made_by = "pause", .bytes = 5};
	struct layer_row l[2] = {{.digest.at = {1}}, {.digest.at = {2}}};
	const struct digest digests[2] = {l[0].digest, l[1].digest};
	unsigned n = 0;

	assert_int_equal(index_put_session(&p->ix, &s, &err), 0);
	for (int round = 0; round < 2; round++) {
		assert_int_equal(index_begin(&p->ix, &err), 0);
		assert_int_equal(index_put_layer(&p->ix, &l[0], &err) | index_put_layer(&p->ix, &l[1], &err), 0);
		assert_int_equal(index_put_snapshot(&p->ix, &snap, digests, 2, &err), 0);
		if (round == 0)
			index_rollback(&p->ix);
		else
			assert_int_equal(index_commit(&p->ix, &err), 0);
		n = 0;
		assert_int_equal(index_list_layers(&p->ix, &snap.digest, count_layer, &n, &err), 0);
		assert_int_equal(n, round == 0 ? 0 : 2);
	}
	assert_int_equal(index_drop_snapshot(&p->ix, &snap.digest, &err), 0);
	n = 0;
	assert_int_equal(index_list_layers(&p->ix, &snap.digest, count_layer, &n, &err), 0);
	assert_int_equal(n, 0);
}

static int
count_match(void *ctx, const struct snapshot_row *row, struct err *err)
{
	(void)err;
	assert_int_equal(row->digest.at[0] & 0xf0, 0xa0);
	++*(unsigned *)ctx;
	return 0;
}

static unsigned
matches(struct index *ix, const char *session, const char *ref)
{
	struct err err;
	unsigned n = 0;

	assert_int_equal(index_match_snapshots(ix, session, str_of(ref), count_match, &n, &err), 0);
	return n;
}

static void
snapshots_are_found_by_digest_its_beginning_and_name(void **state)
{
	struct place *p = *state;
	struct err err;
	struct session_row s = sample("s_a", "one"), t = sample("s_b", "two");
	struct snapshot_row x = {.session = "s_a", .made_by = "pause", .digest.at = {0xab, 0xcd, 0xef, 1}},
			    y = {.session = "s_b", .made_by = "pause", .digest.at = {0xab, 0xcd, 0xef, 2}};

	assert_int_equal(index_put_session(&p->ix, &s, &err) | index_put_session(&p->ix, &t, &err), 0);
	snprintf(x.facts.name, sizeof x.facts.name, "good");
	y.facts = (struct snapshot_facts){.name = "good", .note = "n", .labels = "k=v", .pinned = true, .expires_ns = 9};
	assert_int_equal(index_put_snapshot(&p->ix, &x, NULL, 0, &err) | index_put_snapshot(&p->ix, &y, NULL, 0, &err), 0);
	assert_int_equal(matches(&p->ix, "", "abcdef"), 2);
	assert_int_equal(matches(&p->ix, "", "abcdef01"), 1);
	assert_int_equal(matches(&p->ix, "s_b", "sha256:abcdef02"), 1);
	assert_int_equal(matches(&p->ix, "s_b", "abcdef01"), 0);
	assert_int_equal(matches(&p->ix, "", "abcde"), 0); /* too short to be one */
	assert_int_equal(matches(&p->ix, "", "ABCDEF01"), 0);
	assert_int_equal(matches(&p->ix, "", "good"), 2);
	assert_int_equal(matches(&p->ix, "s_a", "good"), 1);
	assert_int_equal(matches(&p->ix, "", ""), 0);
	assert_int_equal(matches(&p->ix, "", "-"), 0);
	/* a name is one snapshot's within a session */
	struct snapshot_row z = {.session = "s_a", .made_by = "pause", .digest.at = {0xac}};
	z.facts = x.facts;
	assert_true(index_put_snapshot(&p->ix, &z, NULL, 0, &err) < 0);
	assert_int_equal(matches(&p->ix, "s_a", "good"), 1);
	z.facts = (struct snapshot_facts){0};
	assert_int_equal(index_put_snapshot(&p->ix, &z, NULL, 0, &err), 0);
	assert_true(index_put_snapshot_facts(&p->ix, &z.digest, &x.facts, &err) < 0);
	z.facts.pinned = true;
	assert_int_equal(index_put_snapshot_facts(&p->ix, &z.digest, &z.facts, &err), 0);
}

static void
calls_end_once_and_open_ones_can_be_lost(void **state)
{
	struct place *p = *state;
	struct err err;
	struct call_row c = {.id = "c_1", .session = "s_a", .command = "x", .started_ns = 1}, out;

	assert_int_equal(index_put_call_start(&p->ix, &c, &err), 0);
	assert_int_equal(index_put_call_start(&p->ix, &c, &err), 0); /* a record sent again */
	snprintf(c.ended_by, sizeof c.ended_by, "itself");
	c.exit_status = 7;
	c.cpu_ns = 5;
	assert_int_equal(index_put_call_end(&p->ix, &c, &err), 0);
	assert_int_equal(index_lose_calls(&p->ix, "s_a", 99, &err), 0);
	assert_int_equal(index_find_call(&p->ix, "c_1", &out, &err), 1);
	assert_string_equal(out.ended_by, "itself");
	assert_string_equal(index_cpu_by(&out), "cgroup");
	struct call_row told = {.id = "c_4", .session = "s_a", .cpu_ns = 5, .cpu_told = true};
	assert_int_equal(index_put_call_end(&p->ix, &told, &err), 0);
	assert_int_equal(index_find_call(&p->ix, "c_4", &out, &err), 1);
	assert_string_equal(index_cpu_by(&out), "init");
	struct call_row open = {.id = "c_2", .session = "s_a", .started_ns = 2};
	assert_int_equal(index_put_call_start(&p->ix, &open, &err), 0);
	assert_int_equal(index_lose_calls(&p->ix, "s_a", 99, &err), 0);
	assert_int_equal(index_find_call(&p->ix, "c_2", &out, &err), 1);
	assert_string_equal(out.ended_by, "lost");
	assert_string_equal(index_cpu_by(&out), "");
	assert_int_equal(index_find_call(&p->ix, "c_3", &out, &err), 0);
}

static int
add_choice(void *ctx, const char *key, const char *value, struct err *err)
{
	(void)err;
	buf_fmt(ctx, "%s=%s;", key, value);
	return 0;
}

static void
choices_are_of_one_session_and_go_with_it(void **state)
{
	struct place *p = *state;
	struct err err;
	const struct session_row a = sample("s_a", "one"), b = sample("s_b", "two");
	auto_buf text = BUF_MAX(256);

	assert_int_equal(index_put_session(&p->ix, &a, &err) | index_put_session(&p->ix, &b, &err), 0);
	assert_int_equal(choice_rows_put(&p->ix, "s_a", "setuid", "yes", &err), 0);
	assert_int_equal(choice_rows_put(&p->ix, "s_a", "mount 0", "/it's:/x", &err), 0);
	assert_int_equal(choice_rows_put(&p->ix, "s_b", "setuid", "no", &err), 0);
	assert_int_equal(choice_rows_put(&p->ix, "s_a", "setuid", "no", &err), 0);
	assert_int_equal(choice_rows_put(&p->ix, "s_c", "setuid", "no", &err), -1); /* no such session */
	assert_int_equal(choice_rows_list(&p->ix, "s_a", add_choice, &text, &err), 0);
	assert_string_equal(buf_cstr(&text), "mount 0=/it's:/x;setuid=no;");
	assert_int_equal(index_drop_session(&p->ix, "s_a", &err), 0);
	buf_clear(&text);
	assert_int_equal(choice_rows_list(&p->ix, "s_a", add_choice, &text, &err), 0);
	assert_int_equal(text.len, 0);
}

static int
find_any(void *ctx, const struct session_row *row, struct err *err)
{
	(void)err;
	*(struct session_row *)ctx = *row;
	return 0;
}

static int
synchronous(struct index *ix)
{
	sqlite3_stmt *st;

	assert_int_equal(sqlite3_prepare_v2(ix->db, "PRAGMA synchronous", -1, &st, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_step(st), SQLITE_ROW);
	const int level = sqlite3_column_int(st, 0);
	sqlite3_finalize(st);
	return level;
}

static void
a_transaction_that_need_not_be_durable_is_whole_and_the_next_is_durable(void **state)
{
	struct place *p = *state;
	const struct session_row a = sample("s_aaaaaaaaaaaaaaaa", "one"), b = sample("s_bbbbbbbbbbbbbbbb", "two");
	struct err err;

	assert_int_equal(index_begin_soon(&p->ix, &err), 0);
	assert_int_equal(synchronous(&p->ix), 1); /* NORMAL */
	assert_int_equal(index_put_session(&p->ix, &a, &err), 0);
	assert_int_equal(index_commit(&p->ix, &err), 0);
	assert_int_equal(synchronous(&p->ix), 2); /* FULL */
	assert_int_equal(index_begin_soon(&p->ix, &err), 0);
	assert_int_equal(index_put_session(&p->ix, &b, &err), 0);
	index_rollback(&p->ix);
	assert_int_equal(synchronous(&p->ix), 2);
	assert_int_equal(index_put_session(&p->ix, &a, &err), 0); /* the same again: how it is made durable */
	assert_int_equal(index_drop_session(&p->ix, a.id, &err), 0);
	struct session_row found = {0};
	assert_int_equal(index_list_sessions(&p->ix, find_any, &found, &err), 0);
	assert_string_equal(found.id, ""); /* the other was never there */
}

static void
a_row_that_need_not_be_durable_leaves_the_next_one_durable(void **state)
{
	struct place *p = *state;
	struct session_row in = sample("s_aaaaaaaaaaaaaaaa", "demo");
	struct err err;
	sqlite3_stmt *st;

	assert_int_equal(index_put_session_soon(&p->ix, &in, &err), 0);
	in.fence = 1; /* refused: there is a higher one */
	assert_int_equal(index_put_session_soon(&p->ix, &in, &err), -1);
	assert_int_equal(sqlite3_prepare_v2(p->ix.db, "PRAGMA synchronous", -1, &st, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_step(st), SQLITE_ROW);
	assert_int_equal(sqlite3_column_int(st, 0), 2); /* FULL */
	sqlite3_finalize(st);
}

static void
the_way_forward_is_a_stack_of_one_session(void **state)
{
	struct place *p = *state;
	const struct session_row one = sample("s_aaaaaaaaaaaaaaaa", "a"), two = sample("s_bbbbbbbbbbbbbbbb", "b");
	struct digest d = {{0}}, got = {{0}};
	struct parent_row parent;
	struct err err;

	assert_int_equal(index_put_session(&p->ix, &one, &err), 0);
	assert_int_equal(index_put_session(&p->ix, &two, &err), 0);
	assert_int_equal(index_find_redo(&p->ix, one.id, 1, &got, &err), 0);
	for (int i = 1; i <= 3; i++) {
		d.at[0] = (uint8_t)i;
		assert_int_equal(index_push_redo(&p->ix, one.id, &d, &err), 0);
	}
	assert_int_equal(index_push_redo(&p->ix, two.id, &d, &err), 0);
	assert_int_equal(index_find_redo(&p->ix, one.id, 1, &got, &err), 3);
	assert_int_equal(got.at[0], 3);
	assert_int_equal(index_find_redo(&p->ix, one.id, 3, &got, &err), 3);
	assert_int_equal(got.at[0], 1);
	assert_int_equal(index_find_redo(&p->ix, one.id, 4, &got, &err), 3);
	assert_int_equal(index_pop_redo(&p->ix, one.id, 2, &err), 0);
	assert_int_equal(index_find_redo(&p->ix, one.id, 1, &got, &err), 1);
	assert_int_equal(got.at[0], 1);
	assert_int_equal(index_clear_redo(&p->ix, one.id, &err), 0);
	assert_int_equal(index_find_redo(&p->ix, one.id, 1, &got, &err), 0);
	assert_int_equal(index_find_redo(&p->ix, two.id, 1, &got, &err), 1);

	struct snapshot_row row = {.has_parent = true};
	snprintf(row.session, sizeof row.session, "%s", one.id);
	row.digest.at[0] = 8;
	row.parent.at[0] = 7;
	assert_int_equal(index_put_snapshot(&p->ix, &row, NULL, 0, &err), 0);
	assert_int_equal(index_find_parent(&p->ix, &row.digest, &parent, &err), 1);
	assert_true(parent.has_parent && parent.parent.at[0] == 7);
	assert_string_equal(parent.session, one.id);
	assert_int_equal(index_find_parent(&p->ix, &row.parent, &parent, &err), 0);
}

static unsigned
rows_of(struct place *p, const char *table)
{
	char sql[64];
	sqlite3_stmt *st;

	snprintf(sql, sizeof sql, "SELECT count(*) FROM %s", table);
	assert_int_equal(sqlite3_prepare_v2(p->ix.db, sql, -1, &st, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_step(st), SQLITE_ROW);
	const unsigned n = (unsigned)sqlite3_column_int(st, 0);
	sqlite3_finalize(st);
	return n;
}

static void
an_erased_session_leaves_no_row_and_no_other_one_loses_any(void **state)
{
	static const char *const tables[] = {"sessions", "uppers", "calls", "spools", "session_limits", "session_choices"};
	struct place *p = *state;
	struct err err;
	struct limit_value_row limit = {.key = "pids", .value = 9};

	for (int i = 0; i < 2; i++) {
		const char *id = i ? "s_b" : "s_a";
		struct session_row s = sample(id, i ? "two" : "one");
		struct upper_row u = {.n = 1};
		struct call_row c = {.command = "true"};
		snprintf(u.session, sizeof u.session, "%s", id);
		snprintf(c.session, sizeof c.session, "%s", id);
		snprintf(c.id, sizeof c.id, "c_%s", id);
		assert_int_equal(index_put_session(&p->ix, &s, &err) | index_put_upper(&p->ix, &u, &err) |
				 index_put_call_start(&p->ix, &c, &err) | index_put_spool_last(&p->ix, id, 3, &err) |
				 index_put_limit(&p->ix, id, &limit, &err) |
				 choice_rows_put(&p->ix, id, "throwaway", "view", &err), 0);
	}
	assert_int_equal(index_erase_session(&p->ix, "s_a", &err), 0);
	for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
		assert_int_equal(rows_of(p, tables[i]), 1);
	struct snapshot_row snap = {.session = "s_b", .made_by = "pause", .digest.at = {7}}, found;
	assert_int_equal(index_put_snapshot(&p->ix, &snap, NULL, 0, &err), 0);
	assert_int_equal(index_find_snapshot(&p->ix, &snap.digest, &found, &err), 1);
	assert_string_equal(found.session, "s_b");
	snap.digest.at[0] = 8;
	assert_int_equal(index_find_snapshot(&p->ix, &snap.digest, &found, &err), 0);
	/* one that has snapshots is not erased, nor half of it */
	assert_true(index_erase_session(&p->ix, "s_b", &err) < 0);
	for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
		assert_int_equal(rows_of(p, tables[i]), 1);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(an_erased_session_leaves_no_row_and_no_other_one_loses_any, make_place, remove_place),
	    cmocka_unit_test_setup_teardown(a_session_reads_back_and_a_lower_fence_does_not_overwrite, make_place, remove_place),
	    cmocka_unit_test_setup_teardown(a_head_moves_only_from_where_it_was_expected_and_by_its_owner, make_place, remove_place),
	    cmocka_unit_test_setup_teardown(two_live_sessions_cannot_share_a_name_but_a_deleted_one_may, make_place, remove_place),
	    cmocka_unit_test_setup_teardown(what_is_rolled_back_was_never_there, make_place, remove_place),
	    cmocka_unit_test_setup_teardown(snapshots_are_found_by_digest_its_beginning_and_name, make_place, remove_place),
	    cmocka_unit_test_setup_teardown(the_way_forward_is_a_stack_of_one_session, make_place, remove_place),
	    cmocka_unit_test_setup_teardown(calls_end_once_and_open_ones_can_be_lost, make_place, remove_place),
	    cmocka_unit_test_setup_teardown(choices_are_of_one_session_and_go_with_it, make_place, remove_place),
	    cmocka_unit_test_setup_teardown(a_row_that_need_not_be_durable_leaves_the_next_one_durable, make_place, remove_place),
	    cmocka_unit_test_setup_teardown(a_transaction_that_need_not_be_durable_is_whole_and_the_next_is_durable, make_place,
					    remove_place),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
