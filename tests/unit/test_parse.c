/* Words, requests, and their way over the wire. */
#include "server/verbs/parse.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

static void
splits(const char *command, size_t n, const char *const *expected)
{
	auto_words w = {0};
	struct err err;

	assert_int_equal(parse_words(str_of(command), &w, &err), 0);
	assert_int_equal(w.n, n);
	for (size_t i = 0; i < n; i++) {
		assert_int_equal(w.at[i].len, strlen(expected[i]));
		assert_string_equal(w.at[i].at, expected[i]);
	}
}
#define SPLITS(command, ...)                                                                       \
	splits(command, sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *),                    \
	       (const char *const[]){__VA_ARGS__})

static void
words_are_split_as_posix_quotes(void **state)
{
	(void)state;
	SPLITS("a b", "a", "b");
	SPLITS("  a\t\tb\n", "a", "b");
	SPLITS("'a b' c", "a b", "c");
	SPLITS("\"a b\"c", "a bc");
	SPLITS("a''b", "ab");
	SPLITS("'' \"\"", "", "");
	SPLITS("a\\ b", "a b");
	SPLITS("'a\\b'", "a\\b");
	SPLITS("\"a\\b\\\"\\\\\\$\\`\"", "a\\b\"\\$`");
	SPLITS("'it'\\''s'", "it's");
	SPLITS("a\\\nb c", "ab", "c");
	SPLITS("\"a\\\nb\"", "ab");
	SPLITS("a 'b\nc'", "a", "b\nc");
	SPLITS("\\a \\'", "a", "'");
}

static void
nothing_is_expanded(void **state)
{
	(void)state;
	SPLITS("$HOME *.c ~ `id` $(id) a;b |x >y #z {a,b}", "$HOME", "*.c", "~", "`id`", "$(id)",
	       "a;b", "|x", ">y", "#z", "{a,b}");
}

static void
words_refuse(struct str command)
{
	auto_words w = {0};
	struct err err;

	assert_int_equal(parse_words(command, &w, &err), -1);
	assert_int_equal(err.code, ERR_USAGE);
}

static void
bad_commands_are_refused(void **state)
{
	(void)state;
	words_refuse(STR_LIT("'open"));
	words_refuse(STR_LIT("\"open"));
	words_refuse(STR_LIT("\"open\\\""));
	words_refuse(STR_LIT("ends with \\"));
	words_refuse(STR_LIT("a\0b"));

	auto_buf many = BUF_MAX(1 << 20);
	for (int i = 0; i <= WORDS_MAX; i++)
		buf_text(&many, "x ");
	words_refuse(buf_view(&many));
	buf_clear(&many);
	while (many.len <= WORDS_MAX_BYTES)
		buf_text(&many, "0123456789abcdef");
	words_refuse(buf_view(&many));
}

static void
an_empty_command_has_no_words(void **state)
{
	auto_words w = {0};
	struct err err;

	(void)state;
	assert_int_equal(parse_words(STR_LIT(" \t\n"), &w, &err), 0);
	assert_int_equal(w.n, 0);
	words_free(&w);
	assert_int_equal(parse_words((struct str){NULL, 0}, &w, &err), 0);
	assert_int_equal(w.n, 0);
}

/* What the client would see for this command, or NULL with *out filled. `words` outlives *out. */
static const char *
refusal(const char *command, struct words *words, struct request *out)
{
	static char line[1024];
	struct err err = {0};

	assert_int_equal(parse_words(str_of(command), words, &err), 0);
	if (parse_request(words, out, &err) == 0)
		return NULL;
	assert_int_equal(err.code, ERR_USAGE);
	assert_int_equal(err_exit(err.code), 64);
	err_line(&err, line, sizeof line);
	assert_null(strchr(line, '\n'));
	return line;
}

static void
requests_are_parsed(void **state)
{
	struct str text;
	struct request r;

	(void)state;
	auto_words a = {0};
	assert_null(refusal("pause demo --grace=5s --force --note 'a b' --json", &a, &r));
	assert_ptr_equal(r.verb, &verbs[VERB_pause]);
	assert_true(r.json);
	assert_true(request_flag(&r, "force"));
	assert_int_equal(request_number(&r, "grace", 1), 5000000000);
	assert_true(request_text(&r, "session", &text) && str_is(text, "demo"));
	assert_true(request_text(&r, "note", &text) && str_is(text, "a b"));

	auto_words b = {0};
	assert_null(refusal("call output --from 17 c_aaaaaaaaaaaaaaaa", &b, &r));
	assert_ptr_equal(r.verb, &verbs[VERB_call_output]);
	assert_false(r.json);
	assert_false(request_flag(&r, "follow"));
	assert_int_equal(request_number(&r, "from", 0), 17);

	auto_words c = {0};
	assert_null(refusal("restore -- demo 0123ab", &c, &r));
	assert_true(request_text(&r, "snapshot", &text) && str_is(text, "0123ab"));
	assert_false(request_text(&r, "note", &text));

	auto_words d = {0};
	assert_null(refusal("rm --help", &d, &r));
	assert_true(r.help);
	auto_words e = {0};
	assert_null(refusal("--help", &e, &r));
	assert_true(r.help && !r.verb);
	auto_words f = {0};
	assert_null(refusal("show s_aaaaaaaaaaaaaaaa", &f, &r));
}

static void
bad_requests_get_one_line_that_says_why(void **state)
{
	static const struct {
		const char *command, *line;
	} cases[] = {
	    {"pasue demo", "berth: pasue: no such verb (did you mean: pause?)"},
	    {"exec demo", "berth: exec: no such verb (run: ssh berth@HOST help)"},
	    {"''", "berth: no such verb (run: ssh berth@HOST help)"},
	    {"quite-another-thing", "berth: quite-another-thing: no such verb (run: ssh berth@HOST help)"},
	    {"call", "berth: call: a second word is missing: show, output, input, wait, kill (run: ssh berth@HOST help)"},
	    {"call out c_x", "berth: call: a second word is missing: show, output, input, wait, kill (run: ssh berth@HOST "
			     "help)"},
	    {"show", "berth: show: its session is missing (run: ssh berth@HOST help show)"},
	    {"show a b", "berth: show: one word too many: b (run: ssh berth@HOST help show)"},
	    {"ls --all", "berth: ls: no such option: --all (run: ssh berth@HOST help ls)"},
	    {"ls -l", "berth: ls: no such option: -l (run: ssh berth@HOST help ls)"},
	    {"show --session a", "berth: show: no such option: --session (run: ssh berth@HOST help show)"},
	    {"pause a --note", "berth: pause: --note needs a value (run: ssh berth@HOST help)"},
	    {"pause a --force=1", "berth: pause: --force takes no value (run: ssh berth@HOST help)"},
	    {"pause a --force --force", "berth: pause: --force is given twice (run: ssh berth@HOST help)"},
	    {"pause a --grace 5", "berth: pause: --grace 5: not a duration: 5 (a number and ms, s, m, h "
				  "or d, such as 30s)"},
	    {"calls a --limit -1", "berth: calls: --limit -1: not a number: -1 (run: ssh berth@HOST help)"},
	    {"show Demo", "berth: show: session Demo: not a session's name (begin with a-z or 0-9, go on "
			  "with a-z 0-9 . _ -, at most 63)"},
	    {"new berth", "berth: new: session berth: this name is reserved (choose another one)"},
	    {"new s_aaaaaaaaaaaaaaaa", "berth: new: session s_aaaaaaaaaaaaaaaa: a name may not have the "
				       "form of an id (choose another one)"},
	    {"restore a 01234", "berth: restore: snapshot 01234: too few digits of a digest (give at "
				"least 6)"},
	    {"call show c_x", "berth: call show: call c_x: not a call's id (run: ssh berth@HOST calls "
			      "SESSION)"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		auto_words w = {0};
		struct request r;
		const char *line = refusal(cases[i].command, &w, &r);
		assert_non_null(line);
		assert_string_equal(line, cases[i].line);
	}
}

static void
a_failure_knows_that_json_was_wanted(void **state)
{
	auto_words w = {0};
	struct request r;

	(void)state;
	assert_non_null(refusal("pasue --json", &w, &r));
	assert_true(r.json);
}

static void
takes_mounts(const struct request *r)
{
	static const char *const expected[] = {"/a:/b", "/c:/d:ro", "/e:/f"};
	struct str text = {NULL, 0};
	size_t n = 0;

	for (size_t i = 0; i < 3; i++) {
		assert_true(request_next(r, "mount", &n, &text));
		assert_true(str_is(text, expected[i]));
	}
	assert_false(request_next(r, "mount", &n, &text));
	assert_true(request_text(r, "mount", &text) && str_is(text, expected[0]));
}

static void
an_option_that_repeats_keeps_its_order_also_over_the_wire(void **state)
{
	struct request sent, got;
	struct err err;
	struct str text;
	size_t n = 0;

	(void)state;
	auto_words w = {0};
	auto_buf args = BUF_MAX(VERB_ARGS_MAX_BYTES);
	assert_null(refusal("new x --mount /a:/b --pids 9 --mount=/c:/d:ro --mount /e:/f", &w, &sent));
	takes_mounts(&sent);
	assert_int_equal(request_encode(&sent, &args, &err), 0);
	assert_int_equal(request_decode(STR_LIT("new"), buf_view(&args), false, &got, &err), 0);
	takes_mounts(&got);

	auto_words none = {0};
	assert_null(refusal("new x", &none, &got));
	assert_false(request_next(&got, "mount", &n, &text));

	auto_buf many = BUF_MAX(4096);
	auto_words most = {0}, above = {0};
	buf_text(&many, "new x");
	for (int i = 0; i < 1 + REQUEST_MORE_MAX; i++)
		buf_text(&many, " --mount a");
	assert_null(refusal(buf_cstr(&many), &most, &got));
	buf_text(&many, " --mount a");
	assert_string_equal(refusal(buf_cstr(&many), &above, &got),
			    "berth: new: --mount is given too often (run: ssh berth@HOST help)");
}

static void
the_last_words_are_as_many_as_there_are(void **state)
{
	struct request r, again;
	struct str value = {NULL, 0};
	struct err err;
	size_t n = 0;

	(void)state;
	auto_words w = {0};
	assert_int_equal(parse_words(STR_LIT("label demo a=1 --pin yes b=2 c="), &w, &err), 0);
	assert_int_equal(parse_request(&w, &r, &err), 0);
	auto_buf args = BUF_MAX(VERB_ARGS_MAX_BYTES);
	assert_int_equal(request_encode(&r, &args, &err), 0);
	assert_int_equal(request_decode(STR_LIT("label"), buf_view(&args), false, &again, &err), 0);
	static const char *const each[] = {"a=1", "b=2", "c="};
	for (size_t i = 0; i < 3; i++)
		assert_true(request_next(&again, "label", &n, &value) && str_is(value, each[i]));
	assert_false(request_next(&again, "label", &n, &value));
	assert_int_equal(request_number(&again, "pin", 9), 1);
	auto_words many = {0};
	assert_int_equal(parse_words(STR_LIT("label demo 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18"), &many, &err), 0);
	assert_int_equal(parse_request(&many, &r, &err), -1);
}

static void
yes_and_no_are_the_only_answers(void **state)
{
	struct request r;

	(void)state;
	auto_words yes = {0}, no = {0}, none = {0}, other = {0};
	assert_null(refusal("new x --setuid yes", &yes, &r));
	assert_int_equal(request_number(&r, "setuid", 7), 1);
	assert_null(refusal("new x --setuid=no", &no, &r));
	assert_int_equal(request_number(&r, "setuid", 7), 0);
	assert_null(refusal("new x", &none, &r));
	assert_int_equal(request_number(&r, "setuid", 7), 7);
	assert_non_null(refusal("new x --setuid maybe", &other, &r));
}

/* What /bin/sh is given of the words of a bisect's command, on both sides of the wire. */
static void
gives_command(const char *typed, const char *wanted)
{
	struct request sent, got;
	struct err err;
	auto_words words = {0};
	auto_buf args = BUF_MAX(VERB_ARGS_MAX_BYTES), here = BUF_MAX(4096), there = BUF_MAX(4096);

	assert_null(refusal(typed, &words, &sent));
	request_command(&sent, "command", &here);
	assert_string_equal(buf_cstr(&here), wanted);
	assert_int_equal(request_encode(&sent, &args, &err), 0);
	assert_int_equal(request_decode(STR_LIT("bisect"), buf_view(&args), false, &got, &err), 0);
	request_command(&got, "command", &there);
	assert_string_equal(buf_cstr(&there), wanted);
}

static void
the_words_of_a_command_arrive_as_they_were_given(void **state)
{
	struct request r;
	struct err err;

	(void)state;
	gives_command("bisect demo 0123ab good -- 'cd x && make'", "cd x && make");
	gives_command("bisect demo 0123ab good -- make test", "'make' 'test'");
	gives_command("bisect demo 0123ab good --timeout 5s -- grep -q 'a  b' \"it's\" -- --json",
		      "'grep' '-q' 'a  b' 'it'\\''s' '--' '--json'");
	auto_words none = {0}, early = {0}, json = {0}, most = {0}, above = {0};
	assert_non_null(refusal("bisect demo 0123ab good", &none, &r));
	assert_non_null(refusal("bisect demo 0123ab good make -j2", &early, &r));
	assert_null(refusal("bisect demo 0123ab good --json -- x --json", &json, &r));
	assert_true(r.json);
	auto_buf many = BUF_MAX(4096);
	buf_text(&many, "bisect d 0123ab good --");
	for (int i = 0; i < WORDS_MAX - 5; i++)
		buf_text(&many, " w");
	assert_null(refusal(buf_cstr(&many), &most, &r));
	buf_text(&many, " w");
	assert_int_equal(parse_words(buf_view(&many), &above, &err), -1); /* of any command */
}

static void
names_are_checked(void **state)
{
	static const char *const good[] = {"a", "0", "demo", "a.b_c-d", "1.2",
					   "s_aaaaaaaaaaaaaaa", "s_aaaaaaaaaaaaaaa1"};
	static const char *const bad[] = {"", "A", "-a", ".a", "_a", "a b", "a/b", "a\n", "\xc3\xa4",
					  "berth", "s_abcdefghijklmnop"};
	char longest[SESSION_NAME_MAX_BYTES + 2];
	struct err err;

	(void)state;
	for (size_t i = 0; i < sizeof good / sizeof *good; i++)
		assert_int_equal(session_name_check(str_of(good[i]), &err), 0);
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		assert_int_equal(session_name_check(str_of(bad[i]), &err), -1);
	assert_int_equal(session_ref_check(STR_LIT("s_abcdefghijklmnop"), &err), 0);
	memset(longest, 'x', sizeof longest);
	assert_int_equal(session_name_check((struct str){longest, 63}, &err), 0);
	assert_int_equal(session_name_check((struct str){longest, 64}, &err), -1);
	assert_int_equal(session_name_check((struct str){"a\0b", 3}, &err), -1);
}

/* ---- over the wire ---- */

static void
a_request_survives_the_wire(void **state)
{
	static const char *const commands[] = {
	    "new demo", "ls --json", "show demo", "pause demo --force --grace 250ms --note ''",
	    "restore demo abcdef012345 --note 'x y\tz'", "calls demo --limit 0", "rm demo",
	    "call output c_aaaaaaaaaaaaaaaa --from 9223372036854775807 --follow",
	};

	(void)state;
	for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
		auto_words w = {0};
		auto_buf args = BUF_MAX(VERB_ARGS_MAX_BYTES);
		struct request sent, got;
		struct err err;

		assert_null(refusal(commands[i], &w, &sent));
		assert_int_equal(request_encode(&sent, &args, &err), 0);
		assert_int_equal(request_decode(str_of(sent.verb->name), buf_view(&args), sent.json,
						&got, &err), 0);
		assert_ptr_equal(got.verb, sent.verb);
		assert_int_equal(got.json, sent.json);
		for (size_t p = 0; p < VERB_PARAMETERS_MAX; p++) {
			assert_int_equal(got.given[p], sent.given[p]);
			assert_true(str_equal(got.value[p], sent.value[p]));
			assert_int_equal(got.number[p], sent.number[p]);
		}
	}
}

static void
decode_refuses(const char *verb, struct str args)
{
	struct request r;
	struct err err;

	assert_int_equal(request_decode(str_of(verb), args, false, &r, &err), -1);
	assert_int_equal(err.code, ERR_USAGE);
	assert_true(err.what[0] != '\0' || verb[0] == '\0');
}

static void
forged_requests_are_refused(void **state)
{
	(void)state;
	decode_refuses("nothing", STR_LIT(""));
	decode_refuses("", STR_LIT(""));
	decode_refuses("exec", STR_LIT("session\0demo\0"));
	decode_refuses("show", STR_LIT(""));
	decode_refuses("show", STR_LIT("session\0demo"));
	decode_refuses("show", STR_LIT("session\0"));
	decode_refuses("show", STR_LIT("session"));
	decode_refuses("show", STR_LIT("session\0demo\0session\0demo\0"));
	decode_refuses("show", STR_LIT("session\0demo\0color\0red\0"));
	decode_refuses("show", STR_LIT("session\0../etc\0"));
	decode_refuses("show", STR_LIT("\0\0"));
	decode_refuses("pause", STR_LIT("session\0demo\0force\0yes\0"));
	decode_refuses("calls", STR_LIT("session\0demo\0limit\0many\0"));
	decode_refuses("calls", STR_LIT("session\0demo\0limit\09223372036854775808\0"));

	auto_buf big = BUF_MAX(2 * VERB_ARGS_MAX_BYTES);
	buf_add(&big, "session\0demo\0note", 18);
	for (int i = 0; i <= VALUE_MAX_BYTES; i++)
		buf_char(&big, 'x');
	buf_char(&big, '\0');
	decode_refuses("pause", buf_view(&big));
}

/* A generator of its own, so that the same bytes come everywhere. */
static uint32_t
next_random(uint32_t *seed)
{
	*seed = *seed * 1664525u + 1013904223u;
	return *seed >> 8;
}

/* Pieces that come close to something valid find more than plain noise does. */
static void
random_args(struct buf *out, uint32_t *seed)
{
	static const char *const pieces[] = {"session", "demo", "call", "c_aaaaaaaaaaaaaaaa", "from",
					     "force", "note", "grace", "1s", "limit", "7", "",
					     "snapshot", "abcdef", "s_aaaaaaaaaaaaaaaa"};

	for (uint32_t n = next_random(seed) % 8; n; n--) {
		const uint32_t kind = next_random(seed) % 8;
		if (kind == 0)
			buf_char(out, (char)next_random(seed));
		else
			buf_text(out, pieces[next_random(seed) % (sizeof pieces / sizeof *pieces)]);
		if (kind != 1)
			buf_char(out, '\0');
	}
}

static void
random_bytes_never_break_the_decoder(void **state)
{
	uint32_t seed = 20260101;
	size_t accepted = 0;

	(void)state;
	for (int i = 0; i < 200000; i++) {
		auto_buf args = BUF_MAX(4096);
		struct request r;
		struct err err;

		random_args(&args, &seed);
		const struct verb *v = &verbs[next_random(&seed) % VERBS];
		/* an exact copy, so that a read past its end is seen */
		char *exact = malloc(args.len ? args.len : 1);
		if (args.len)
			memcpy(exact, args.at, args.len);
		if (request_decode(str_of(v->name), (struct str){exact, args.len}, false, &r,
				   &err) == 0) {
			accepted++;
			for (size_t p = 0; p < verb_parameters(v); p++)
				assert_true(r.given[p] || !v->parameters[p].required);
		}
		free(exact);
	}
	assert_true(accepted > 100); /* else the generator tests nothing */
}

static void
random_commands_never_break_the_parser(void **state)
{
	static const char alphabet[] = "ab'\"\\ \t\n-=$x";
	uint32_t seed = 7;

	(void)state;
	for (int i = 0; i < 100000; i++) {
		char command[24];
		const size_t n = next_random(&seed) % sizeof command;
		for (size_t at = 0; at < n; at++)
			command[at] = alphabet[next_random(&seed) % (sizeof alphabet - 1)];
		char *exact = malloc(n ? n : 1);
		memcpy(exact, command, n);
		auto_words w = {0};
		struct request r;
		struct err err;
		if (parse_words((struct str){exact, n}, &w, &err) == 0) {
			size_t total = 0;
			for (size_t k = 0; k < w.n; k++)
				total += w.at[k].len;
			assert_true(total <= n);
			if (parse_request(&w, &r, &err) < 0)
				assert_int_equal(err.code, ERR_USAGE);
		}
		free(exact);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(words_are_split_as_posix_quotes),
	    cmocka_unit_test(nothing_is_expanded),
	    cmocka_unit_test(bad_commands_are_refused),
	    cmocka_unit_test(an_empty_command_has_no_words),
	    cmocka_unit_test(requests_are_parsed),
	    cmocka_unit_test(bad_requests_get_one_line_that_says_why),
	    cmocka_unit_test(a_failure_knows_that_json_was_wanted),
	    cmocka_unit_test(an_option_that_repeats_keeps_its_order_also_over_the_wire),
	    cmocka_unit_test(the_last_words_are_as_many_as_there_are),
	    cmocka_unit_test(yes_and_no_are_the_only_answers),
	    cmocka_unit_test(the_words_of_a_command_arrive_as_they_were_given),
	    cmocka_unit_test(names_are_checked),
	    cmocka_unit_test(a_request_survives_the_wire),
	    cmocka_unit_test(forged_requests_are_refused),
	    cmocka_unit_test(random_bytes_never_break_the_decoder),
	    cmocka_unit_test(random_commands_never_break_the_parser),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
