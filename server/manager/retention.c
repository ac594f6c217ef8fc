/* Rules of retention: their text, and what they choose. */
#include "manager/retention.h"
#include "base/num.h"
#include "base/time.h"

#include <stdio.h>
#include <stdlib.h>

#define HOUR_NS (3600 * NS_PER_S)
#define DAY_NS  (24 * HOUR_NS)

/* ---- text ---- */

static int
take_word(struct str key, struct str value, struct retention *r, struct err *err)
{
	uint64_t *const counts[] = {&r->last, &r->hourly, &r->daily, &r->weekly};
	static const char *const keys[] = {"last", "hourly", "daily", "weekly"};

	if (str_is(key, "ttl"))
		return num_parse_duration(value, &r->ttl_ns, err);
	for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
		if (str_is(key, keys[i]))
			return num_parse(value, 0, RETENTION_MOST, counts[i], err);
	return err_set(err, ERR_USAGE, "no such rule: %.*s", (int)(key.len > 32 ? 32 : key.len),
		       key.at ? key.at : "");
}

int
retention_parse(struct str text, struct retention *out, struct err *err)
{
	struct retention r = {0};
	struct str rest = str_trim(text);

	if (!str_is(rest, "all") && rest.len == 0)
		return err_set(err, ERR_USAGE, "an empty rule of retention");
	while (rest.len && !str_is(rest, "all")) {
		size_t n = 0;
		while (n < rest.len && rest.at[n] != ' ' && rest.at[n] != ',')
			n++;
		struct str word = {rest.at, n}, key;
		if (n && (!str_cut(&word, '=', &key) || take_word(key, word, &r, err) < 0)) {
			err->code = ERR_USAGE;
			err_add(err, "retention");
			return err_hint(err, "all, or such as: last=20 hourly=24 daily=7 weekly=8 "
					     "ttl=90d");
		}
		rest = (struct str){rest.at + n + (n < rest.len), rest.len - n - (n < rest.len)};
	}
	*out = r;
	return 0;
}

void
retention_format(const struct retention *r, char out[RETENTION_TEXT_BYTES])
{
	auto_buf text = BUF_MAX(RETENTION_TEXT_BYTES);
	const uint64_t counts[] = {r->last, r->hourly, r->daily, r->weekly};
	static const char *const keys[] = {"last", "hourly", "daily", "weekly"};

	for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
		if (counts[i])
			buf_fmt(&text, "%s%s=%llu", text.len ? " " : "", keys[i],
				(unsigned long long)counts[i]);
	if (r->ttl_ns) {
		char ttl[NUM_TEXT_BYTES];
		num_format_duration(r->ttl_ns, ttl);
		buf_fmt(&text, "%sttl=%s", text.len ? " " : "", ttl);
	}
	snprintf(out, RETENTION_TEXT_BYTES, "%s", text.len ? buf_cstr(&text) : "all");
}

/* ---- choice ---- */

static int
newest_first(const void *a, const void *b)
{
	const struct retention_row *const *x = a, *const *y = b;

	if ((*x)->created_ns != (*y)->created_ns)
		return (*x)->created_ns < (*y)->created_ns ? 1 : -1;
	return *x < *y ? 1 : *x > *y ? -1 : 0; /* of one instant: the later in the list is newer */
}

/* Keeps the newest of each of the last `most` spans of time that have one. */
static void
keep_spans(struct retention_row *const *rows, size_t n, uint64_t most, uint64_t span_ns,
	   uint64_t shift_ns)
{
	uint64_t at = UINT64_MAX;

	for (size_t i = 0; i < n && most > 0; i++) {
		const uint64_t span = (rows[i]->created_ns + shift_ns) / span_ns;
		if (span == at)
			continue;
		at = span;
		most--;
		rows[i]->goes = false;
	}
}

void
retention_choose(const struct retention *r, struct retention_row *rows, size_t n, uint64_t now_ns)
{
	const bool counts = r->last || r->hourly || r->daily || r->weekly;
	auto_free struct retention_row **by_age = xnew(n + 1, sizeof *by_age);

	for (size_t i = 0; i < n; i++) {
		by_age[i] = &rows[i];
		rows[i].goes = counts;
	}
	qsort(by_age, n, sizeof *by_age, newest_first);
	for (size_t i = 0; i < n && i < r->last; i++)
		by_age[i]->goes = false;
	keep_spans(by_age, n, r->hourly, HOUR_NS, 0);
	keep_spans(by_age, n, r->daily, DAY_NS, 0);
	keep_spans(by_age, n, r->weekly, 7 * DAY_NS, 3 * DAY_NS); /* 1970 began on a Thursday */
	for (size_t i = 0; i < n; i++) {
		struct retention_row *row = by_age[i];
		const uint64_t age_ns = now_ns > row->created_ns ? now_ns - row->created_ns : 0;
		if (r->ttl_ns && age_ns > r->ttl_ns && i > 0)
			row->goes = true;
		if (row->expires_ns)
			row->goes = row->expires_ns <= now_ns;
		row->goes = row->goes && !row->held;
	}
}
