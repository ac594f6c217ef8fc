/* Text into a checked request, and a request over the wire and into a checked one again. */
#include "verbs.h"

#include "base/num.h"

#include <assert.h>
#include <stdio.h>

/* ---- words ---- */

void
words_free(struct words *w)
{
	buf_free(&w->bytes);
	w->n = 0;
}

static bool
is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* Takes one word off the front of *in into `out`: 1, 0 there is none, -1. */
static int
take_word(struct str *in, struct buf *out, struct err *err)
{
	const char *p = in->at, *const end = in->at + in->len;
	char quote = 0;
	bool any = false; /* '' is a word too */

	while (p < end && is_blank(*p))
		p++;
	for (; p < end && (quote || !is_blank(*p)); p++) {
		const bool escapes = *p == '\\' && quote != '\'';
		if (escapes && p + 1 == end)
			return err_set(err, ERR_USAGE, "the command ends within a quotation");
		if (escapes && p[1] == '\n') { /* a continued line */
			p++;
			continue;
		}
		any = true;
		if (escapes) {
			/* within "…" only these lose their backslash (POSIX, 2.2.3) */
			if (quote && !strchr("$`\"\\", p[1]))
				buf_char(out, '\\');
			buf_char(out, *++p);
		} else if (quote ? *p == quote : *p == '\'' || *p == '"') {
			quote = quote ? 0 : *p;
		} else {
			buf_char(out, *p);
		}
	}
	if (quote)
		return err_set(err, ERR_USAGE, "the command ends within a quotation");
	*in = (struct str){p, (size_t)(end - p)};
	return any;
}

int
parse_words(struct str command, struct words *out, struct err *err)
{
	size_t begin[WORDS_MAX + 1] = {0};
	size_t n = 0;

	*out = (struct words){.bytes = BUF_MAX(WORDS_MAX_BYTES + WORDS_MAX)};
	if (command.len > WORDS_MAX_BYTES)
		return err_set(err, ERR_USAGE, "the command is longer than %d bytes",
			       WORDS_MAX_BYTES);
	if (command.len && memchr(command.at, '\0', command.len))
		return err_set(err, ERR_USAGE, "the command holds a NUL byte");
	for (;;) {
		const size_t at = out->bytes.len;
		const int got = take_word(&command, &out->bytes, err);
		if (got < 0)
			return -1;
		if (got == 0)
			break;
		if (n == WORDS_MAX)
			return err_set(err, ERR_USAGE, "more than %d words", WORDS_MAX);
		begin[n++] = at;
		buf_char(&out->bytes, '\0');
	}
	if (buf_bad(&out->bytes))
		return err_set(err, ERR_UNAVAILABLE, "no memory for the command");
	for (size_t i = 0; i < n; i++) {
		const size_t end = i + 1 < n ? begin[i + 1] : out->bytes.len;
		out->at[i] = (struct str){out->bytes.at + begin[i], end - begin[i] - 1};
	}
	out->n = n;
	return 0;
}

/* ---- the verb ---- */

enum { TYPED_MAX = 32 }; /* what was typed is shown up to here */

static int
shown(struct str s)
{
	return s.len > TYPED_MAX ? TYPED_MAX : (int)s.len;
}

/* Edits from a to b: insert, delete, replace, swap of neighbours each cost one. */
static unsigned
distance(struct str a, struct str b)
{
	unsigned row[3][TYPED_MAX + 1];

	if (a.len > TYPED_MAX || b.len > TYPED_MAX)
		return TYPED_MAX;
	for (size_t j = 0; j <= b.len; j++)
		row[0][j] = (unsigned)j;
	for (size_t i = 1; i <= a.len; i++) {
		unsigned *now = row[i % 3], *last = row[(i + 2) % 3], *before = row[(i + 1) % 3];
		now[0] = (unsigned)i;
		for (size_t j = 1; j <= b.len; j++) {
			unsigned best = last[j - 1] + (a.at[i - 1] != b.at[j - 1]);
			if (last[j] + 1 < best)
				best = last[j] + 1;
			if (now[j - 1] + 1 < best)
				best = now[j - 1] + 1;
			if (i > 1 && j > 1 && a.at[i - 1] == b.at[j - 2] &&
			    a.at[i - 2] == b.at[j - 1] && before[j - 2] + 1 < best)
				best = before[j - 2] + 1;
			now[j] = best;
		}
	}
	return row[a.len % 3][b.len];
}

static const struct verb *
find_typed(struct str name)
{
	const struct verb *v = verb_find(name);
	return v && v->where != VERB_AT_CHANNEL ? v : NULL;
}

static int
no_such_verb(struct str typed, struct err *err)
{
	const struct verb *nearest = NULL;
	unsigned best = 3; /* farther is a guess */

	for (size_t i = 0; i < VERBS; i++) {
		const unsigned d = distance(typed, str_of(verbs[i].name));
		if (verbs[i].where != VERB_AT_CHANNEL && d < best && d < typed.len) {
			best = d;
			nearest = &verbs[i];
		}
	}
	err_set(err, ERR_USAGE, "no such verb");
	if (nearest)
		err_hint(err, "did you mean: %s?", nearest->name);
	return err_what(err, "%.*s", shown(typed), typed.at);
}

/* The second words of verbs that begin with `first`; false when there are none. */
static bool
second_words(struct str first, struct buf *out)
{
	for (size_t i = 0; i < VERBS; i++) {
		const char *name = verbs[i].name;
		if (str_starts(str_of(name), first.at) && name[first.len] == ' ')
			buf_fmt(out, "%s%s", out->len ? ", " : "", name + first.len + 1);
	}
	return out->len > 0;
}

/* Finds the verb at the front of the words; *used says how many it took. */
static int
find_verb(const struct words *w, const struct verb **out, size_t *used, struct err *err)
{
	char both[64];
	auto_buf choices = BUF_MAX(256);

	*out = find_typed(w->at[0]);
	*used = 1;
	if (*out)
		return 0;
	if (w->n > 1) {
		const int n = snprintf(both, sizeof both, "%s %s", w->at[0].at, w->at[1].at);
		if (n > 0 && (size_t)n < sizeof both)
			*out = find_typed(str_of(both));
		*used = 2;
		if (*out)
			return 0;
	}
	if (w->at[0].len && second_words(w->at[0], &choices)) {
		err_set(err, ERR_USAGE, "a second word is missing: %s", buf_cstr(&choices));
		return err_what(err, "%s", w->at[0].at);
	}
	return no_such_verb(w->at[0], err);
}

/* ---- the check that both ways share ---- */

static int
check_value(const struct parameter *p, struct str value, uint64_t *number, struct err *err)
{
	if (value.len > VALUE_MAX_BYTES)
		return err_set(err, ERR_USAGE, "longer than %d bytes", VALUE_MAX_BYTES);
	switch (p->type) {
	case PARAMETER_SESSION:
		return session_ref_check(value, err);
	case PARAMETER_NAME:
		return session_name_check(value, err);
	case PARAMETER_SNAPSHOT:
		return snapshot_ref_check(value, err);
	case PARAMETER_SUBJECT:
		return session_ref_check(value, err) < 0 ? snapshot_ref_check(value, err) : 0;
	case PARAMETER_CALL:
		return call_id_check(value, err);
	case PARAMETER_NUMBER:
		return num_parse(value, 0, INT64_MAX, number, err);
	case PARAMETER_DURATION:
		if (num_parse_duration(value, number, err) == 0)
			return 0;
		return err_hint(err, "a number and ms, s, m, h or d, such as 30s");
	case PARAMETER_FLAG:
		return value.len ? err_set(err, ERR_USAGE, "takes no value") : 0;
	case PARAMETER_YESNO:
		*number = str_is(value, "yes");
		return *number || str_is(value, "no") ? 0
						      : err_set(err, ERR_USAGE, "not yes or no");
	case PARAMETER_TEXT:
	case PARAMETER_WORDS:
		return 0;
	case PARAMETER_NONE:
		break;
	}
	return err_set(err, ERR_INTERNAL, "a parameter without a type");
}

/* Where a snapshot is all that a verb is about, a session stands for its newest one. */
static bool
is_session(const struct request *r, const struct parameter *p, struct str value)
{
	struct err ignored;
	return p->type == PARAMETER_SNAPSHOT && r->verb->session < 0 &&
	       session_ref_check(value, &ignored) == 0;
}

static int
take_value(struct request *r, size_t i, struct str value, struct err *err)
{
	const struct parameter *p = &r->verb->parameters[i];
	const char *dashes = p->positional ? "" : "--";
	uint64_t number = 0;

	if (r->given[i] && !p->repeats)
		return err_set(err, ERR_USAGE, "%s%s is given twice", dashes, p->name);
	if (r->given[i] &&
	    r->n_more == (p->type == PARAMETER_WORDS ? REQUEST_WORDS_MAX : REQUEST_MORE_MAX))
		return err_set(err, ERR_USAGE, "%s%s is given too often", dashes, p->name);
	if (!is_session(r, p, value) && check_value(p, value, &number, err) < 0)
		return err_add(err, "%s%s %.*s", dashes, p->name, shown(value),
			       value.at ? value.at : "");
	if (r->given[i]) {
		r->more[r->n_more].parameter = i;
		r->more[r->n_more++].value = value;
		return 0;
	}
	r->given[i] = true;
	r->value[i] = value;
	r->number[i] = number;
	return 0;
}

static int
check_complete(const struct request *r, struct err *err)
{
	for (size_t i = 0; i < verb_parameters(r->verb); i++)
		if (r->verb->parameters[i].required && !r->given[i]) {
			err_set(err, ERR_USAGE, "its %s is missing", r->verb->parameters[i].name);
			return err_hint(err, "run: ssh berth@HOST help %s", r->verb->name);
		}
	return 0;
}

static int
find_parameter(const struct verb *v, struct str name, bool positional_too)
{
	for (size_t i = 0; i < verb_parameters(v); i++)
		if (str_is(name, v->parameters[i].name) &&
		    (positional_too || !v->parameters[i].positional))
			return (int)i;
	return -1;
}

/* ---- words into a request ---- */

static bool
is_flag(const struct words *w, size_t from, const char *flag)
{
	for (size_t i = from; i < w->n && !str_is(w->at[i], "--"); i++)
		if (str_is(w->at[i], flag))
			return true;
	return false;
}

/* One "--name", "--name=value" or "--name value" at words[*i]. */
static int
take_option(const struct words *w, size_t *i, struct request *r, struct err *err)
{
	struct str rest = {w->at[*i].at + 2, w->at[*i].len - 2}, name;

	str_cut(&rest, '=', &name);
	const int at = find_parameter(r->verb, name, false);
	if (at < 0) {
		err_set(err, ERR_USAGE, "no such option: --%.*s", shown(name), name.at);
		return err_hint(err, "run: ssh berth@HOST help %s", r->verb->name);
	}
	const bool flag = r->verb->parameters[at].type == PARAMETER_FLAG;
	struct str value = {"", 0};
	if (rest.at && flag)
		return err_set(err, ERR_USAGE, "--%s takes no value", r->verb->parameters[at].name);
	if (rest.at) {
		value = rest;
	} else if (!flag) {
		if (*i + 1 == w->n)
			return err_set(err, ERR_USAGE, "--%s needs a value",
				       r->verb->parameters[at].name);
		value = w->at[++*i];
	}
	return take_value(r, (size_t)at, value, err);
}

/* A flag of one letter. */
static int
take_letter(struct str word, struct request *r, struct err *err)
{
	const int at = find_parameter(r->verb, (struct str){word.at + 1, 1}, false);
	return take_value(r, (size_t)at, STR_LIT(""), err);
}

static int
take_positional(struct str word, size_t *next, struct request *r, struct err *err)
{
	const struct parameter *p = r->verb->parameters;

	while (p[*next].type != PARAMETER_NONE && !p[*next].positional)
		++*next;
	if (p[*next].type == PARAMETER_NONE) {
		err_set(err, ERR_USAGE, "one word too many: %.*s", shown(word), word.at);
		return err_hint(err, "run: ssh berth@HOST help %s", r->verb->name);
	}
	const size_t at = *next;
	*next += !p[at].repeats;
	return take_value(r, at, word, err);
}

static int
take_words(const struct words *w, size_t used, struct request *r, struct err *err)
{
	size_t next = 0;
	bool only_positional = false;

	for (size_t i = used; i < w->n; i++) {
		const struct str word = w->at[i];
		int result;
		if (only_positional || !str_starts(word, "-") || word.len == 1) {
			result = take_positional(word, &next, r, err);
		} else if (str_is(word, "--")) {
			only_positional = true;
			continue;
		} else if (str_is(word, "--json") || str_is(word, "--progress")) {
			continue;
		} else if (str_starts(word, "--")) {
			result = take_option(w, &i, r, err);
		} else if (word.len == 2 &&
			   find_parameter(r->verb, (struct str){word.at + 1, 1}, false) >= 0) {
			result = take_letter(word, r, err);
		} else {
			err_set(err, ERR_USAGE, "no such option: %.*s", shown(word), word.at);
			result = err_hint(err, "run: ssh berth@HOST help %s", r->verb->name);
		}
		if (result < 0)
			return -1;
	}
	return check_complete(r, err);
}

int
parse_request(const struct words *words, struct request *out, struct err *err)
{
	size_t used;

	*out = (struct request){.json = is_flag(words, 0, "--json"),
				.progress = is_flag(words, 0, "--progress")};
	if (words->n == 0 || str_is(words->at[0], "--help") || str_is(words->at[0], "--json")) {
		out->help = true;
		return 0;
	}
	if (find_verb(words, &out->verb, &used, err) < 0)
		return -1;
	out->help = is_flag(words, used, "--help");
	if (out->help)
		return 0;
	if (take_words(words, used, out, err) < 0)
		return err_what(err, "%s", out->verb->name);
	return 0;
}

/* ---- over the wire ---- */

static void
encode_one(const struct request *r, size_t i, struct str value, struct buf *out)
{
	const char *name = r->verb->parameters[i].name;

	buf_add(out, name, strlen(name) + 1);
	buf_str(out, value);
	buf_char(out, '\0');
}

int
request_encode(const struct request *r, struct buf *out, struct err *err)
{
	for (size_t i = 0; i < verb_parameters(r->verb); i++)
		if (r->given[i])
			encode_one(r, i, r->value[i], out);
	for (size_t i = 0; i < r->n_more; i++)
		encode_one(r, r->more[i].parameter, r->more[i].value, out);
	if (buf_bad(out) || out->len > VERB_ARGS_MAX_BYTES)
		return err_set(err, ERR_USAGE, "the arguments are too long");
	return 0;
}

/* Takes one NUL-terminated string off the front. */
static int
take_string(struct str *args, struct str *out, struct err *err)
{
	const char *end = args->len ? memchr(args->at, '\0', args->len) : NULL;

	if (!end)
		return err_set(err, ERR_USAGE, "the arguments are cut off");
	*out = (struct str){args->at, (size_t)(end - args->at)};
	args->at = end + 1;
	args->len -= out->len + 1;
	return 0;
}

static int
decode_args(struct str args, struct request *r, struct err *err)
{
	while (args.len) {
		struct str name = {NULL, 0}, value = {NULL, 0};
		if (take_string(&args, &name, err) < 0 || take_string(&args, &value, err) < 0)
			return -1;
		const int at = find_parameter(r->verb, name, true);
		if (at < 0)
			return err_set(err, ERR_USAGE, "no such parameter: %.*s", shown(name),
				       name.at);
		if (take_value(r, (size_t)at, value, err) < 0)
			return -1;
	}
	return check_complete(r, err);
}

int
request_decode(struct str verb, struct str args, bool json, struct request *out, struct err *err)
{
	struct request r = {.verb = find_typed(verb), .json = json};

	if (!r.verb)
		return no_such_verb(verb, err);
	if (args.len > VERB_ARGS_MAX_BYTES)
		err_set(err, ERR_USAGE, "the arguments are too long");
	else if (decode_args(args, &r, err) == 0) {
		*out = r;
		return 0;
	}
	return err_what(err, "%s", r.verb->name);
}

/* ---- reading a request ---- */

static int
find_given(const struct request *r, const char *name)
{
	const int at = find_parameter(r->verb, str_of(name), true);

	assert(at >= 0); /* a slip of ours: the row has no such parameter */
	return r->given[at] ? at : -1;
}

bool
request_text(const struct request *r, const char *name, struct str *out)
{
	const int at = find_given(r, name);

	if (at < 0)
		return false;
	*out = r->value[at];
	return true;
}

uint64_t
request_number(const struct request *r, const char *name, uint64_t otherwise)
{
	const int at = find_given(r, name);
	return at < 0 ? otherwise : r->number[at];
}

bool
request_flag(const struct request *r, const char *name)
{
	return find_given(r, name) >= 0;
}

bool
request_next(const struct request *r, const char *name, size_t *n, struct str *out)
{
	const int at = find_given(r, name);
	size_t left = *n;

	if (at < 0)
		return false;
	++*n;
	if (left-- == 0) {
		*out = r->value[at];
		return true;
	}
	for (size_t i = 0; i < r->n_more; i++)
		if (r->more[i].parameter == (size_t)at && left-- == 0) {
			*out = r->more[i].value;
			return true;
		}
	return false;
}

/* As a shell takes it for one word, whatever is in it. */
static void
put_quoted(struct str word, struct buf *out)
{
	buf_char(out, '\'');
	for (size_t i = 0; i < word.len; i++)
		if (word.at[i] == '\'')
			buf_text(out, "'\\''");
		else
			buf_char(out, word.at[i]);
	buf_char(out, '\'');
}

void
request_command(const struct request *r, const char *name, struct buf *out)
{
	struct str word;
	size_t n = 0;

	if (r->n_more == 0 && request_text(r, name, &word)) {
		buf_str(out, word);
		return;
	}
	while (request_next(r, name, &n, &word)) {
		buf_text(out, n > 1 ? " " : "");
		put_quoted(word, out);
	}
}
