#include "num.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

int
num_parse(struct str text, uint64_t least, uint64_t most, uint64_t *out, struct err *err)
{
	uint64_t n = 0;

	if (text.len == 0 || text.len > 20)
		return err_set(err, ERR_USAGE, "not a number: %.*s",
			       (int)(text.len > 40 ? 40 : text.len), text.at ? text.at : "");
	for (size_t i = 0; i < text.len; i++) {
		const char c = text.at[i];
		if (c < '0' || c > '9' || __builtin_mul_overflow(n, (uint64_t)10, &n) ||
		    __builtin_add_overflow(n, (uint64_t)(c - '0'), &n))
			return err_set(err, ERR_USAGE, "not a number: %.*s", (int)text.len,
				       text.at);
	}
	if (n < least || n > most)
		return err_set(err, ERR_USAGE, "%llu is not between %llu and %llu",
			       (unsigned long long)n, (unsigned long long)least,
			       (unsigned long long)most);
	*out = n;
	return 0;
}

struct unit {
	const char *name;
	uint64_t factor;
};

static int
parse_with_unit(struct str text, const struct unit *units, size_t n_units, const char *kind,
		uint64_t *out, struct err *err)
{
	size_t digits = 0;
	uint64_t n, whole;

	if (!text.len)
		return err_set(err, ERR_USAGE, "not a %s: it is empty", kind);
	while (digits < text.len && text.at[digits] >= '0' && text.at[digits] <= '9')
		digits++;
	const struct str unit = {text.at + digits, text.len - digits};
	for (size_t i = 0; i < n_units; i++) {
		if (!str_is(unit, units[i].name))
			continue;
		if (num_parse((struct str){text.at, digits}, 0, UINT64_MAX, &n, err) < 0)
			return -1;
		if (__builtin_mul_overflow(n, units[i].factor, &whole))
			return err_set(err, ERR_USAGE, "%s too large", kind);
		*out = whole;
		return 0;
	}
	return err_set(err, ERR_USAGE, "not a %s: %.*s", kind, (int)(text.len > 40 ? 40 : text.len),
		       text.at ? text.at : "");
}

static const struct unit duration_units[] = {
    {"ms", 1000000ull},      {"s", 1000000000ull},     {"m", 60000000000ull},
    {"h", 3600000000000ull}, {"d", 86400000000000ull},
};
static const struct unit size_units[] = {
    {"", 1}, {"K", 1ull << 10}, {"M", 1ull << 20}, {"G", 1ull << 30}, {"T", 1ull << 40},
};

int
num_parse_duration(struct str text, uint64_t *out_ns, struct err *err)
{
	return parse_with_unit(text, duration_units, sizeof duration_units / sizeof *duration_units,
			       "duration", out_ns, err);
}

int
num_parse_size(struct str text, uint64_t *out_bytes, struct err *err)
{
	return parse_with_unit(text, size_units, sizeof size_units / sizeof *size_units, "size",
			       out_bytes, err);
}

/* The largest unit that leaves a whole number. */
static void
format_with_unit(uint64_t n, const struct unit *units, size_t n_units, char *out)
{
	size_t u = 0;

	for (size_t i = 0; i < n_units; i++)
		if (n && n % units[i].factor == 0)
			u = i;
	snprintf(out, NUM_TEXT_BYTES, "%llu%s", (unsigned long long)(n / units[u].factor),
		 units[u].name);
}

void
num_format_size(uint64_t bytes, char *out)
{
	format_with_unit(bytes, size_units, sizeof size_units / sizeof *size_units, out);
}

void
num_format_duration(uint64_t ns, char *out)
{
	format_with_unit(ns, duration_units, sizeof duration_units / sizeof *duration_units, out);
}

static const char base32[] = "abcdefghijklmnopqrstuvwxyz234567";

void
id_new(const char *prefix, char *out)
{
	uint8_t random[ID_RANDOM_CHARS];
	size_t at = strlen(prefix);

	if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
		abort(); /* cannot happen for so few bytes (getrandom(2)) */
	memcpy(out, prefix, at);
	for (size_t i = 0; i < sizeof random; i++)
		out[at++] = base32[random[i] & 31];
	out[at] = '\0';
}

bool
id_is(const char *prefix, struct str text)
{
	const size_t n = strlen(prefix);

	if (!str_starts(text, prefix) || text.len != n + ID_RANDOM_CHARS)
		return false;
	for (size_t i = n; i < text.len; i++)
		if (!text.at[i] || !strchr(base32, text.at[i]))
			return false;
	return true;
}

void
hex_format(const uint8_t *bytes, size_t n, char *out)
{
	static const char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < n; i++) {
		out[2 * i] = digits[bytes[i] >> 4];
		out[2 * i + 1] = digits[bytes[i] & 15];
	}
	out[2 * n] = '\0';
}

static int
hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

int
hex_parse(struct str text, uint8_t *out, size_t n, struct err *err)
{
	if (text.len != 2 * n)
		return err_set(err, ERR_USAGE, "%zu hex digits where %zu are needed", text.len,
			       2 * n);
	for (size_t i = 0; i < n; i++) {
		const int high = hex_digit(text.at[2 * i]), low = hex_digit(text.at[2 * i + 1]);
		if (high < 0 || low < 0)
			return err_set(err, ERR_USAGE, "not a lower-case hex number");
		out[i] = (uint8_t)(high << 4 | low);
	}
	return 0;
}

void
num_format_about(uint64_t bytes, char out[16])
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
	double n = (double)bytes;
	size_t u = 0;

	while (n >= 1024 && u + 1 < sizeof units / sizeof *units) {
		n /= 1024;
		u++;
	}
	snprintf(out, 16, u && n < 100 ? "%.1f %s" : "%.0f %s", n, units[u]);
}
