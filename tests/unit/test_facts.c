/* Facts of snapshots: labels stay sorted, bounded, and as they were when one is refused. */
#include "manager/facts.c"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static void
set(char *labels, const char *text, bool good)
{
	struct err err;
	char before[1025];

	snprintf(before, sizeof before, "%s", labels);
	assert_int_equal(facts_set_label(labels, str_of(text), &err), good ? 0 : -1);
	if (!good)
		assert_string_equal(labels, before);
}

static void
test_labels_are_kept_by_key(void **state)
{
	char labels[1025] = "";

	(void)state;
	set(labels, "b=2", true);
	set(labels, "a=1", true);
	set(labels, "bb=x=y", true);
	set(labels, "a.b/c=", true); /* not there: nothing to remove */
	assert_string_equal(labels, "a=1\nb=2\nbb=x=y");
	set(labels, "b=22", true);
	assert_string_equal(labels, "a=1\nb=22\nbb=x=y");
	set(labels, "a=", true);
	assert_string_equal(labels, "b=22\nbb=x=y");
	auto_buf json = BUF_MAX(4096);
	facts_labels_json(labels, &json);
	assert_string_equal(buf_cstr(&json), "{\"b\":\"22\",\"bb\":\"x=y\"}");
}

static void
test_what_is_no_label_is_refused(void **state)
{
	static const char *const bad[] = {"", "=", "=v", "k", "K=v", "-k=v", "k k=v", "k=a\nb", "k=\x7f"};
	char labels[1025] = "a=1", long_key[70];

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		set(labels, bad[i], false);
	memset(long_key, 'k', sizeof long_key);
	memcpy(long_key + 64, "=v", 3);
	set(labels, long_key, false);
	memcpy(long_key + 63, "=v", 3);
	set(labels, long_key, true);
}

static void
test_labels_are_bounded(void **state)
{
	char labels[1025] = "", text[1100];

	(void)state;
	for (int i = 0; i < LABELS_MAX; i++) {
		snprintf(text, sizeof text, "k%d=v", i);
		set(labels, text, true);
	}
	set(labels, "one=more", false);
	set(labels, "k3=", true);
	set(labels, "one=more", true);
	memset(text, 'x', sizeof text);
	memcpy(text, "k1=", 3);
	text[1050] = '\0';
	set(labels, text, false);
}

static void
test_facts_are_json(void **state)
{
	struct snapshot_facts f = {0};
	auto_buf json = BUF_MAX(FACTS_MAX_BYTES);

	(void)state;
	facts_json(&f, &json);
	assert_string_equal(buf_cstr(&json), "{}");
	buf_clear(&json);
	f = (struct snapshot_facts){.note = "a \"b\"", .labels = "k=v", .pinned = true, .expires_ns = 7};
	facts_json(&f, &json);
	assert_string_equal(buf_cstr(&json), "{\"note\":\"a \\\"b\\\"\",\"labels\":{\"k\":\"v\"},"
					     "\"pinned\":true,\"expires_ns\":7}");
	buf_clear(&json);
	f = (struct snapshot_facts){.name = "n", .expires_ns = 7};
	facts_json(&f, &json);
	assert_string_equal(buf_cstr(&json), "{\"name\":\"n\",\"expires_ns\":7}");
}

static void
test_labels_are_looked_for(void **state)
{
	static const char labels[] = "a=1\nab=x=y\nb=";

	(void)state;
	assert_true(facts_have_label(labels, STR_LIT("a=1")));
	assert_true(facts_have_label(labels, STR_LIT("a")));
	assert_true(facts_have_label(labels, STR_LIT("ab=x=y")));
	assert_true(facts_have_label(labels, STR_LIT("b")));
	assert_false(facts_have_label(labels, STR_LIT("a=")));
	assert_false(facts_have_label(labels, STR_LIT("a=11")));
	assert_false(facts_have_label(labels, STR_LIT("ab=x")));
	assert_false(facts_have_label(labels, STR_LIT("c")));
	assert_false(facts_have_label("", STR_LIT("a")));
}

static void
test_names_and_notes_of_snapshots(void **state)
{
	char note[1100];
	struct err err;

	(void)state;
	assert_int_equal(facts_check_name(STR_LIT(""), &err), 0);
	assert_int_equal(facts_check_name(STR_LIT("good-1.2"), &err), 0);
	static const char *const bad[] = {"abcdef", "12", "UP", "-a", "a b", "berth", "s_aaaaaaaaaaaaaaaa"};
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		assert_int_equal(facts_check_name(str_of(bad[i]), &err), -1);
	memset(note, 'x', sizeof note);
	assert_int_equal(facts_check_note((struct str){note, 1024}, &err), 0);
	assert_int_equal(facts_check_note((struct str){note, 1025}, &err), -1);
	assert_int_equal(facts_check_note(STR_LIT("two\n\tlines"), &err), 0);
	assert_int_equal(facts_check_note(STR_LIT("\x1b[31m"), &err), -1);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_labels_are_kept_by_key),
	    cmocka_unit_test(test_what_is_no_label_is_refused),
	    cmocka_unit_test(test_labels_are_bounded),
	    cmocka_unit_test(test_facts_are_json),
	    cmocka_unit_test(test_labels_are_looked_for),
	    cmocka_unit_test(test_names_and_notes_of_snapshots),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
