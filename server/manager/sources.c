#include "sources.h"
#include "base/num.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

static struct source
make(const uint8_t *at, size_t bytes)
{
	struct source s = {.bytes = bytes};
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};

	if (bytes == 16 && memcmp(at, mapped, sizeof mapped) == 0) {
		at += sizeof mapped;
		s.bytes = 4;
	}
	memcpy(s.at, at, s.bytes);
	if (!inet_ntop(s.bytes == 4 ? AF_INET : AF_INET6, s.at, s.text, sizeof s.text))
		s.text[0] = '\0';
	return s;
}

struct source
source_of(const struct sockaddr_storage *a)
{
	if (a->ss_family == AF_INET6)
		return make(((const struct sockaddr_in6 *)(const void *)a)->sin6_addr.s6_addr, 16);
	if (a->ss_family == AF_INET)
		return make(
		    (const uint8_t *)&((const struct sockaddr_in *)(const void *)a)->sin_addr, 4);
	return (struct source){0};
}

struct source
source_parse(struct str text)
{
	char copy[INET6_ADDRSTRLEN];
	uint8_t at[16];
	struct err ignored;

	if (str_copy(text, copy, sizeof copy, &ignored) < 0)
		return (struct source){0};
	if (inet_pton(AF_INET, copy, at) == 1)
		return make(at, 4);
	if (inet_pton(AF_INET6, copy, at) == 1)
		return make(at, 16);
	return (struct source){0};
}

struct source
source_party(const struct source *s)
{
	uint8_t at[16];

	memcpy(at, s->at, sizeof at);
	if (s->bytes == 16)
		memset(at + 8, 0, 8);
	return s->bytes ? make(at, s->bytes) : *s;
}

enum { MAPPED_BITS = 96 }; /* ::ffff:0.0.0.0, before the address of IPv4 that it stands for */

/* ADDR or ADDR/BITS, with no bit set behind the prefix (OpenSSH refuses that too: it is a slip). */
static bool
parse_block(struct str text, struct source *out, unsigned *out_bits)
{
	struct str address, rest = text;
	struct err ignored;
	uint64_t bits;

	if (!str_cut(&rest, '/', &address))
		return false;
	*out = source_parse(address);
	if (out->bytes == 0)
		return false;
	*out_bits = (unsigned)out->bytes * 8;
	if (!rest.at)
		return true;
	const unsigned before =
	    out->bytes == 4 && memchr(address.at, ':', address.len) ? MAPPED_BITS : 0;
	if (num_parse(rest, before, before + out->bytes * 8, &bits, &ignored) < 0)
		return false;
	*out_bits = (unsigned)bits - before;
	for (unsigned i = *out_bits; i < out->bytes * 8; i++)
		if (out->at[i / 8] & 0x80 >> i % 8)
			return false;
	return true;
}

static bool
is_in_block(const struct source *block, unsigned bits, const struct source *s)
{
	const unsigned whole = bits / 8, left = bits % 8;

	if (s->bytes != block->bytes || memcmp(s->at, block->at, whole) != 0)
		return false;
	return left == 0 || ((s->at[whole] ^ block->at[whole]) >> (8 - left)) == 0;
}

static bool
has_wildcard(struct str s)
{
	return s.len && (memchr(s.at, '*', s.len) || memchr(s.at, '?', s.len));
}

static struct str
cut_negation(struct str pattern, bool *negated)
{
	*negated = pattern.len && pattern.at[0] == '!';
	return *negated ? (struct str){pattern.at + 1, pattern.len - 1} : pattern;
}

int
sources_check_patterns(struct str list, struct err *err)
{
	struct str rest = list, pattern;
	struct source block;
	unsigned bits;
	bool negated;

	while (str_cut(&rest, ',', &pattern)) {
		const struct str what = cut_negation(str_trim(pattern), &negated);
		bool good = what.len != 0 && (!has_wildcard(what) || what.len < INET6_ADDRSTRLEN);
		if (has_wildcard(what)) {
			for (size_t i = 0; i < what.len; i++)
				good = good && what.at[i] &&
				       strchr("0123456789abcdefABCDEF.:*?", what.at[i]);
		} else {
			good = good && parse_block(what, &block, &bits);
		}
		if (!good)
			return err_set(
			    err, ERR_CONFIG, "not an address, nor a pattern of one: %.*s",
			    (int)(what.len > 80 ? 80 : what.len), what.at ? what.at : "");
	}
	return 0;
}

static bool
glob_ignoring_case(struct str pattern, const char *text)
{
	char lower[INET6_ADDRSTRLEN];

	if (pattern.len >= sizeof lower)
		return false;
	for (size_t i = 0; i < pattern.len; i++)
		lower[i] =
		    (char)(pattern.at[i] >= 'A' && pattern.at[i] <= 'F' ? pattern.at[i] | 0x20
									: pattern.at[i]);
	return str_glob((struct str){lower, pattern.len}, str_of(text));
}

bool
sources_match_patterns(struct str list, const struct source *s)
{
	struct str rest = list, pattern;
	bool found = false;

	while (s->bytes && str_cut(&rest, ',', &pattern)) {
		struct source block;
		unsigned bits;
		bool negated;
		const struct str what = cut_negation(str_trim(pattern), &negated);
		const bool is = has_wildcard(what) ? glob_ignoring_case(what, s->text)
						   : parse_block(what, &block, &bits) &&
							 is_in_block(&block, bits, s);
		if (is && negated)
			return false;
		found = found || is;
	}
	return found;
}

int
sources_check(struct str list, struct err *err)
{
	struct str rest = list, one;
	struct source block;
	unsigned bits;

	while (list.len && str_cut(&rest, ',', &one)) {
		one = str_trim(one);
		if (!parse_block(one, &block, &bits))
			return err_set(err, ERR_CONFIG, "not ADDR or ADDR/BITS: %.*s",
				       (int)(one.len > 80 ? 80 : one.len), one.at ? one.at : "");
	}
	return 0;
}

bool
sources_match(struct str list, const struct source *s)
{
	struct str rest = list, one;
	struct source block;
	unsigned bits;

	while (s->bytes && list.len && str_cut(&rest, ',', &one))
		if (parse_block(str_trim(one), &block, &bits) && is_in_block(&block, bits, s))
			return true;
	return false;
}
