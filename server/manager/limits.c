#include "limits.h"
#include "base/num.h"
#include "base/time.h"
#include "config.h"

#include <stdio.h>

enum limit_type { LIMIT_CORES, LIMIT_SIZE, LIMIT_COUNT, LIMIT_DURATION };
enum limit_when { LIMIT_LIVE, LIMIT_START };

struct limit_row {
	const char *key;
	enum limit_type type;
	uint64_t least, most;
	bool none;
	enum limit_when when;
	const char *help;
};

static const struct limit_row rows[LIMITS] = {
#define LIMIT(id, key, type, least, most, none, when, help)                                        \
	[LIMIT_##id] = {key, LIMIT_##type, least, most, none, LIMIT_##when, help},
#include "limits.def"
#undef LIMIT
};

const char *
limit_key(enum limit l)
{
	return rows[l].key;
}

const char *
limit_help(enum limit l)
{
	return rows[l].help;
}

bool
limit_is_live(enum limit l)
{
	return rows[l].when == LIMIT_LIVE;
}

enum limit
limit_find(struct str key)
{
	for (int l = 0; l < LIMITS; l++)
		if (str_is(key, rows[l].key))
			return (enum limit)l;
	return LIMITS;
}

/* "2", "1.5", "0.25": hundredths. */
static int
parse_cores(struct str text, uint64_t *out, struct err *err)
{
	struct str rest = text, whole;
	uint64_t cores, part = 0;

	str_cut(&rest, '.', &whole);
	if (num_parse(whole, 0, 4096, &cores, err) < 0)
		return -1;
	if (rest.at) {
		if (rest.len > 2 || num_parse(rest, 0, 99, &part, err) < 0)
			return err_set(err, ERR_USAGE, "cores have at most two decimals");
		if (rest.len == 1)
			part *= 10;
	}
	*out = cores * 100 + part;
	return 0;
}

static int
parse_number(const struct limit_row *row, struct str text, uint64_t *out, struct err *err)
{
	switch (row->type) {
	case LIMIT_CORES:
		return parse_cores(text, out, err);
	case LIMIT_SIZE:
		return num_parse_size(text, out, err);
	case LIMIT_COUNT:
		return num_parse(text, 0, INT64_MAX, out, err);
	case LIMIT_DURATION:
		return num_parse_duration(text, out, err);
	}
	return err_set(err, ERR_INTERNAL, "a limit without a type");
}

int
limit_parse(enum limit l, struct str text, uint64_t *out, struct err *err)
{
	const struct limit_row *row = &rows[l];
	char least[LIMIT_TEXT_BYTES], most[LIMIT_TEXT_BYTES];
	uint64_t value = 0;

	if (row->none && str_is(text, "none")) {
		*out = 0;
		return 0;
	}
	if (parse_number(row, text, &value, err) < 0) {
		err_add(err, "%s", row->key);
		return err_hint(err, "%s%s", row->help, row->none ? "; or none" : "");
	}
	if (value >= row->least && value <= row->most) {
		*out = value;
		return 0;
	}
	limit_format(l, row->least, least);
	limit_format(l, row->most, most);
	if (row->most == INT64_MAX)
		return err_set(err, ERR_USAGE, "%s: at least %s", row->key, least);
	return err_set(err, ERR_USAGE, "%s: from %s to %s", row->key, least, most);
}

void
limit_format(enum limit l, uint64_t value, char out[LIMIT_TEXT_BYTES])
{
	if (value == 0) {
		snprintf(out, LIMIT_TEXT_BYTES, "none");
		return;
	}
	switch (rows[l].type) {
	case LIMIT_CORES:
		if (value % 100 == 0)
			snprintf(out, LIMIT_TEXT_BYTES, "%llu", (unsigned long long)value / 100);
		else
			snprintf(out, LIMIT_TEXT_BYTES, "%llu.%02llu",
				 (unsigned long long)value / 100, (unsigned long long)value % 100);
		return;
	case LIMIT_SIZE:
		num_format_size(value, out);
		return;
	case LIMIT_COUNT:
		snprintf(out, LIMIT_TEXT_BYTES, "%llu", (unsigned long long)value);
		return;
	case LIMIT_DURATION:
		num_format_duration(value, out);
		return;
	}
}

int
limits_default(const struct config *c, struct limits *out, struct err *err)
{
	const char *const texts[LIMITS] = {
	    [LIMIT_CPU] = c->limit_cpu,     [LIMIT_MEMORY] = c->limit_memory,
	    [LIMIT_PIDS] = c->limit_pids,   [LIMIT_DISK] = c->limit_disk,
	    [LIMIT_FILES] = c->limit_files, [LIMIT_TMP] = c->limit_tmp,
	    [LIMIT_WALL] = c->limit_wall,
	};

	for (int l = 0; l < LIMITS; l++) {
		if (!texts[l] ||
		    limit_parse((enum limit)l, str_of(texts[l]), &out->at[l], err) == 0)
			continue;
		err->code = ERR_CONFIG;
		return err_add(err, "limit_%s %s", rows[l].key, texts[l]);
	}
	out->at[LIMIT_CALLS] =
	    c->calls_max < rows[LIMIT_CALLS].most ? c->calls_max : rows[LIMIT_CALLS].most;
	return 0;
}

struct limits
limits_of(const struct limits *standard, const struct limits_set *own)
{
	struct limits out;

	for (int l = 0; l < LIMITS; l++)
		out.at[l] = own->set[l] ? own->value.at[l] : standard->at[l];
	return out;
}

bool
limits_any(const struct limits_set *own)
{
	for (int l = 0; l < LIMITS; l++)
		if (own->set[l])
			return true;
	return false;
}

/* 0 is no limit, above all others. */
static bool
is_above(uint64_t value, uint64_t ceiling)
{
	return ceiling != 0 && (value == 0 || value > ceiling);
}

void
limits_plain(const struct limits *standard, struct limits_set *own, struct buf *words)
{
	char text[LIMIT_TEXT_BYTES];

	for (int l = 0; l < LIMITS; l++) {
		if (own->capped[l] && is_above(own->ceiling.at[l], standard->at[l]))
			own->capped[l] = false;
		if (!own->set[l] || !is_above(own->value.at[l], standard->at[l]))
			continue;
		limit_format((enum limit)l, own->value.at[l], text);
		buf_fmt(words, "%s%s %s", words->len ? ", " : "", rows[l].key, text);
		own->set[l] = false;
	}
}

static void
unset(struct limits_set *own, enum limit l, bool by_operator)
{
	if (by_operator)
		own->capped[l] = false;
	own->set[l] = own->capped[l];
	own->value.at[l] = own->ceiling.at[l];
}

int
limits_change(const struct limits *standard, struct limits_set *own, enum limit l, struct str text,
	      bool by_operator, struct err *err)
{
	char most[LIMIT_TEXT_BYTES];
	uint64_t value;

	if (str_is(text, "default")) {
		unset(own, l, by_operator);
		return 0;
	}
	if (limit_parse(l, text, &value, err) < 0)
		return -1;
	const uint64_t ceiling = own->capped[l] ? own->ceiling.at[l] : standard->at[l];
	if (!by_operator && is_above(value, ceiling)) {
		limit_format(l, ceiling, most);
		return err_set(err, ERR_DENIED, "%s above %s is for operators", rows[l].key, most);
	}
	if (by_operator) {
		own->capped[l] = true;
		own->ceiling.at[l] = value;
	}
	own->set[l] = true;
	own->value.at[l] = value;
	return 0;
}
