#include "options.h"
#include "base/num.h"

#include <stddef.h>

enum option_type { TYPE_DURATION, TYPE_PATH, TYPE_WORD, TYPE_CHOICE, TYPE_KEY, TYPE_NAME, TYPE_SIZE };

static const struct {
	const char *name;
	size_t offset;
	enum option_type type;
	const char *word, *help;
} options[] = {
#define DURATION TYPE_DURATION, NULL
#define PATH	 TYPE_PATH, NULL
#define NAME	 TYPE_NAME, NULL
#define SIZE	 TYPE_SIZE, NULL
#define WORD(w)	 TYPE_WORD, w
#define CHOICE(w) TYPE_CHOICE, w
#define KEY	 TYPE_KEY, NULL
#define CALL_OPTION(field, name, type, help) {name, offsetof(struct call_options, field), type, help},
#include "options.def"
#undef CALL_OPTION
#undef KEY
#undef CHOICE
#undef WORD
#undef SIZE
#undef NAME
#undef PATH
#undef DURATION
};

enum { OPTIONS = sizeof options / sizeof *options };

bool
options_is_ours(struct str variable)
{
	return str_starts(variable, "BERTH_");
}

bool
options_has_input(const struct call_options *o)
{
	return o->input == OPTION_INPUT_KEEP || (o->input == OPTION_INPUT_CLIENT && !o->detach);
}

/* The form of a session's name: it becomes a file's. */
static bool
is_name(struct str s)
{
	if (s.len == 0 || s.len >= OPTION_NAME_BYTES)
		return false;
	for (size_t i = 0; i < s.len; i++) {
		const char c = s.at[i];
		const bool first = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
		if (!first && (i == 0 || (c != '.' && c != '_' && c != '-')))
			return false;
	}
	return true;
}

static int
take_key(struct str value, char *field, struct err *err)
{
	if (value.len < 1 || value.len >= OPTION_KEY_BYTES)
		return err_set(err, ERR_USAGE, "not 1 to %d bytes", OPTION_KEY_BYTES - 1);
	for (size_t i = 0; i < value.len; i++)
		if (value.at[i] <= ' ' || value.at[i] > '~')
			return err_set(err, ERR_USAGE, "not printable, or with a space");
	return str_copy(value, field, OPTION_KEY_BYTES, err);
}

/* words: "one, two". 0: none of them. */
static unsigned
place_of(struct str value, const char *words)
{
	struct str rest = str_of(words), word;

	for (unsigned place = 1; str_cut(&rest, ',', &word); place++)
		if (str_equal(str_trim(word), value))
			return place;
	return 0;
}

static int
take(size_t i, struct str value, struct call_options *out, struct err *err)
{
	char *field = (char *)out + options[i].offset;
	uint64_t n;

	switch (options[i].type) {
	case TYPE_DURATION:
		if (num_parse_duration(value, &n, err) < 0)
			return -1;
		if (n == 0)
			return err_set(err, ERR_USAGE, "no time at all");
		*(uint64_t *)(void *)field = n;
		return 0;
	case TYPE_PATH:
		if (!str_starts(value, "/"))
			return err_set(err, ERR_USAGE, "not an absolute path");
		return str_copy(value, field, OPTION_PATH_BYTES, err);
	case TYPE_SIZE:
		if (num_parse_size(value, &n, err) < 0)
			return -1;
		if (n == 0 || n > OPTION_SIZE_MAX)
			return err_set(err, ERR_USAGE, "not from 1 byte to 1 MiB");
		*(uint64_t *)(void *)field = n;
		return 0;
	case TYPE_NAME:
		if (!is_name(value))
			return err_set(err, ERR_USAGE, "not a name");
		return str_copy(value, field, OPTION_NAME_BYTES, err);
	case TYPE_WORD:
		if (!str_is(value, options[i].word))
			return err_set(err, ERR_USAGE, "not %s", options[i].word);
		*(bool *)field = true;
		return 0;
	case TYPE_CHOICE:
		n = place_of(value, options[i].word);
		if (n == 0)
			return err_set(err, ERR_USAGE, "not one of: %s", options[i].word);
		*(enum option_input *)(void *)field = (enum option_input)n;
		return 0;
	case TYPE_KEY:
		return take_key(value, field, err);
	}
	return err_set(err, ERR_INTERNAL, "an option without a type");
}

static int
take_variable(struct str variable, struct call_options *out, struct err *err)
{
	struct str value = variable, name;

	if (!str_cut(&value, '=', &name))
		return 0;
	for (size_t i = 0; i < OPTIONS; i++) {
		if (!str_is(name, options[i].name))
			continue;
		if (take(i, value, out, err) == 0)
			return 0;
		err->code = ERR_USAGE;
		err_add(err, "%s", options[i].name);
		return err_hint(err, "%s", options[i].help);
	}
	err_set(err, ERR_USAGE, "%.*s is not known", (int)(name.len > 64 ? 64 : name.len), name.at);
	return err_hint(err, "BERTH_CALL, _TIMEOUT, _CWD, _STDIN, _WAIT, _DETACH, _SHELL and _MAX_OUTPUT "
			     "are");
}

int
options_parse(struct str env, struct call_options *out, struct err *err)
{
	struct str one;

	*out = (struct call_options){0};
	while (env.len && str_cut(&env, '\0', &one))
		if (options_is_ours(one) && take_variable(one, out, err) < 0)
			return -1;
	return 0;
}
