#include "revoked.h"
#include "base/num.h"
#include "manager/key_line.h"
#include "manager/pubkey.h"

#include <stdio.h>
#include <stdlib.h>

enum { REVOKED_MAX = 65536 };

void
revoked_done(struct revoked *r)
{
	for (size_t i = 0; i < r->n_ids; i++)
		free(r->ids[i]);
	free(r->ids);
	free(r->serials);
	free(r->prints);
	*r = (struct revoked){0};
}

static int
add_print(struct revoked *r, struct str print, struct err *err)
{
	/* SHA256: and the 43 digits of 32 bytes */
	if (print.len != 50 || !str_starts(print, "SHA256:"))
		return err_set(err, ERR_CONFIG, "not of the form SHA256:…");
	return str_copy(print, r->prints[r->n_prints++], sizeof *r->prints, err);
}

static int
add_key(struct revoked *r, struct str line, struct err *err)
{
	struct key k;
	char print[PUBKEY_FINGERPRINT_BYTES];

	if (!pubkey_find_kind(key_line_word(&(struct str){line.at, line.len})))
		return err_set(err, ERR_CONFIG, "neither a key nor a known word");
	const int got = key_line_parse(line, &k, err);
	if (got <= 0)
		return -1;
	pubkey_fingerprint(key_blob(&k), print);
	key_done(&k);
	return add_print(r, str_of(print), err);
}

static int
add_serials(struct revoked *r, struct str range, struct err *err)
{
	struct serials s;
	struct str first;

	if (!str_cut(&range, '-', &first) ||
	    num_parse(str_trim(first), 0, UINT64_MAX, &s.first, err) < 0)
		return -1;
	s.last = s.first;
	if (range.at && num_parse(str_trim(range), s.first, UINT64_MAX, &s.last, err) < 0)
		return -1;
	r->serials[r->n_serials++] = s;
	return 0;
}

static int
add_line(struct revoked *r, struct str line, struct err *err)
{
	struct str word, rest = line;

	while (line.len && strchr(" \t\r", line.at[line.len - 1]))
		line.len--;
	line = str_trim(line);
	if (line.len == 0 || line.at[0] == '#')
		return 0;
	if (memchr(line.at, '\0', line.len))
		return err_set(err, ERR_CONFIG, "a NUL byte: not a list in lines of text");
	rest = line;
	if (!str_cut(&rest, ':', &word) || !rest.at || memchr(word.at, ' ', word.len))
		return add_key(r, line, err);
	rest = str_trim(rest);
	if (str_is(word, "serial"))
		return add_serials(r, rest, err);
	if (str_is(word, "sha256") || str_is(word, "hash"))
		return add_print(r, rest, err);
	if (!str_is(word, "id") || rest.len == 0)
		return err_set(err, ERR_CONFIG, "neither a key nor a known word");
	r->ids[r->n_ids++] = xstrndup(rest);
	return 0;
}

void
revoked_parse(struct str text, struct revoked *out)
{
	struct str rest = text, line;
	unsigned lines = 1;

	for (size_t i = 0; i < text.len; i++)
		lines += text.at[i] == '\n';
	*out = (struct revoked){0};
	if (lines > REVOKED_MAX) {
		err_set(&out->why, ERR_CONFIG, "revoked_keys has more than %d lines", REVOKED_MAX);
		return;
	}
	/* a line is one thing of three: untouched pages cost nothing */
	out->prints = xnew(lines, sizeof *out->prints);
	out->serials = xnew(lines, sizeof *out->serials);
	out->ids = xnew(lines, sizeof *out->ids);
	for (unsigned n = 1; str_cut(&rest, '\n', &line); n++)
		if (add_line(out, line, &out->why) < 0) {
			out->why.code = ERR_CONFIG;
			err_add(&out->why, "revoked_keys line %u", n);
			return;
		}
}

static int
understood(const struct revoked *r, struct err *err)
{
	if (r->why.code == ERR_NONE)
		return 0;
	return err_set(err, ERR_DENIED, "nobody is let in: %s", r->why.why);
}

int
revoked_check_key(const struct revoked *r, struct str blob, struct err *err)
{
	char print[PUBKEY_FINGERPRINT_BYTES];

	if (understood(r, err) < 0)
		return -1;
	if (r->n_prints == 0)
		return 0;
	pubkey_fingerprint(blob, print);
	for (size_t i = 0; i < r->n_prints; i++)
		if (strcmp(print, r->prints[i]) == 0)
			return err_set(err, ERR_DENIED, "key %s is revoked", print);
	return 0;
}

int
revoked_check_certificate(const struct revoked *r, uint64_t serial, struct str id, struct err *err)
{
	if (understood(r, err) < 0)
		return -1;
	for (size_t i = 0; i < r->n_serials; i++)
		if (serial >= r->serials[i].first && serial <= r->serials[i].last)
			return err_set(err, ERR_DENIED, "serial %llu is revoked",
				       (unsigned long long)serial);
	for (size_t i = 0; i < r->n_ids; i++)
		if (str_is(id, r->ids[i]))
			return err_set(err, ERR_DENIED, "key id %s is revoked", r->ids[i]);
	return 0;
}
