/* Help and the JSON that is written by hand; a real parser judges it. */
#include <jansson.h> /* first: verbs.h looks whether it is there */

#include "server/verbs/help.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

static int
answer(const char *command, struct buf *out, struct err *err)
{
	auto_words w = {0};
	struct request r;

	buf_clear(out);
	if (parse_words(str_of(command), &w, err) < 0 || parse_request(&w, &r, err) < 0)
		return -1;
	return help_answer(&r, out, err);
}

static void
help_names_every_verb(void **state)
{
	auto_buf text = BUF_MAX(65536);
	struct err err;

	(void)state;
	assert_int_equal(answer("help", &text, &err), 0);
	for (size_t i = 0; i < VERBS; i++) {
		char line[64];
		snprintf(line, sizeof line, "\n  %s ", verbs[i].name);
		assert_int_equal(strstr(text.at, line) != NULL, verbs[i].where != VERB_AT_CHANNEL);
	}
	auto_buf again = BUF_MAX(65536);
	assert_int_equal(answer("", &again, &err), 0);
	assert_string_equal(text.at, again.at);
	assert_int_equal(answer("--help", &again, &err), 0);
	assert_string_equal(text.at, again.at);
}

static void
help_of_one_verb_is_the_same_by_every_way(void **state)
{
	auto_buf one = BUF_MAX(65536), two = BUF_MAX(65536);
	struct err err;

	(void)state;
	assert_int_equal(answer("help call output", &one, &err), 0);
	assert_int_equal(answer("call output --help", &two, &err), 0);
	assert_string_equal(one.at, two.at);
	assert_non_null(strstr(one.at, "usage: ssh berth@HOST call output CALL [--from N] "
				       "[--follow]\n       [--stream out|err|both] [--json]\n"));
	assert_int_equal(answer("help call", &two, &err), 0);
	assert_non_null(strstr(two.at, one.at));
	assert_non_null(strstr(two.at, "usage: ssh berth@HOST call show CALL"));
	assert_int_equal(answer("help 'call output'", &two, &err), 0);
	assert_string_equal(one.at, two.at);
}

static void
help_fits_a_terminal_of_80_columns(void **state)
{
	auto_buf text = BUF_MAX(65536);
	char about[64];
	struct err err;

	(void)state;
	for (size_t i = 0; i <= VERBS; i++) {
		snprintf(about, sizeof about, "help %s", i < VERBS ? verbs[i].name : "");
		if (i < VERBS && verbs[i].where == VERB_AT_CHANNEL)
			continue;
		assert_int_equal(answer(about, &text, &err), 0);
		struct str rest = buf_view(&text), line;
		while (str_cut(&rest, '\n', &line))
			if (line.len > 80 || memchr(line.at, '\t', line.len))
				fail_msg("%s: %.*s", about, (int)line.len, line.at);
	}
}

static void
help_of_nothing_is_an_error(void **state)
{
	auto_buf text = BUF_MAX(65536);
	struct err err;

	(void)state;
	assert_int_equal(answer("help nothing", &text, &err), -1);
	assert_int_equal(err.code, ERR_USAGE);
	assert_int_equal(answer("help call nothing", &text, &err), -1);
	assert_int_equal(answer("help exec", &text, &err), -1);
	assert_int_equal(text.len, 0);
}

static json_t *
load(const struct buf *text)
{
	json_error_t why;
	json_t *j = json_loadb(text->at, text->len, 0, &why);

	if (!j)
		fail_msg("%s in: %s", why.text, text->at);
	return j;
}

static void
help_as_json_tells_the_whole_table(void **state)
{
	auto_buf text = BUF_MAX(65536);
	struct err err;

	(void)state;
	assert_int_equal(answer("help --json", &text, &err), 0);
	json_t *j = load(&text);
	json_t *list = json_object_get(j, "verbs");
	size_t typed = 0;
	for (size_t i = 0; i < VERBS; i++) {
		if (verbs[i].where == VERB_AT_CHANNEL)
			continue;
		json_t *v = json_array_get(list, typed++);
		assert_string_equal(json_string_value(json_object_get(v, "name")), verbs[i].name);
		assert_string_equal(json_string_value(json_object_get(v, "help")), verbs[i].help);
		assert_int_equal(json_array_size(json_object_get(v, "parameters")),
				 verb_parameters(&verbs[i]));
	}
	assert_int_equal(json_array_size(list), typed);
	json_decref(j);

	assert_int_equal(answer("version --json", &text, &err), 0);
	j = load(&text);
	assert_string_equal(json_string_value(json_object_get(j, "version")), BERTH_VERSION);
	json_decref(j);
	assert_int_equal(answer("version", &text, &err), 0);
	assert_string_equal(text.at, "berth " BERTH_VERSION "\n");
}

static void
any_bytes_make_a_json_string(void **state)
{
	static const struct {
		struct str in;
		const char *out;
	} cases[] = {
	    {STR_LIT(""), ""},
	    {STR_LIT("a\"\\\n\t\x7f"), "a\"\\\n\t\x7f"},
	    {STR_LIT("\xc3\xa4 \xe2\x82\xac \xf0\x9f\x9a\xa2"),
	     "\xc3\xa4 \xe2\x82\xac \xf0\x9f\x9a\xa2"},
	    {STR_LIT("\xc0\xaf"), "\xef\xbf\xbd\xef\xbf\xbd"},                 /* overlong */
	    {STR_LIT("\xe0\x80\x80"), "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"}, /* overlong */
	    {STR_LIT("\xed\xa0\x80"), "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"}, /* surrogate */
	    {STR_LIT("\xf4\x90\x80\x80"), "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
	    {STR_LIT("x\xe2\x82"), "x\xef\xbf\xbd\xef\xbf\xbd"}, /* cut off */
	    {STR_LIT("\xc2\x9b"
		     "1m\xc2\xa0"),
	     "\xc2\x9b"
	     "1m\xc2\xa0"},
	    {STR_LIT("\xff"
		     "a"),
	     "\xef\xbf\xbd"
	     "a"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		auto_buf text = BUF_MAX(4096);
		buf_char(&text, '[');
		json_put(&text, cases[i].in);
		buf_char(&text, ']');
		json_t *j = load(&text);
		assert_string_equal(json_string_value(json_array_get(j, 0)), cases[i].out);
		for (size_t at = 0; at < text.len; at++) /* C1 stands there escaped */
			assert_false((uint8_t)text.at[at] == 0xc2 &&
				     (uint8_t)text.at[at + 1] < 0xa0);
		json_decref(j);
	}
}

static void
an_error_as_json_has_code_message_and_hint(void **state)
{
	auto_buf text = BUF_MAX(4096);
	struct err err;

	(void)state;
	err_set(&err, ERR_ABSENT, "no such session \"x\"");
	err_what(&err, "show x");
	json_put_error(&text, &err);
	json_t *j = load(&text);
	assert_string_equal(json_string_value(json_object_get(j, "code")), "absent");
	assert_string_equal(json_string_value(json_object_get(j, "message")),
			    "show x: no such session \"x\"");
	assert_string_equal(json_string_value(json_object_get(j, "hint")), "run: ssh berth@HOST ls");
	json_decref(j);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(help_names_every_verb),
	    cmocka_unit_test(help_of_one_verb_is_the_same_by_every_way),
	    cmocka_unit_test(help_fits_a_terminal_of_80_columns),
	    cmocka_unit_test(help_of_nothing_is_an_error),
	    cmocka_unit_test(help_as_json_tells_the_whole_table),
	    cmocka_unit_test(any_bytes_make_a_json_string),
	    cmocka_unit_test(an_error_as_json_has_code_message_and_hint),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
