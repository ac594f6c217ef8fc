#include "key_line.h"
#include "base/num.h"
#include "manager/pubkey.h"
#include "manager/sources.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <time.h>

enum { VALUE_BYTES = 4096 };

void
key_done(struct key *k)
{
	free(k->blob);
	free(k->principals);
	free(k->from);
	allowances_done(&k->allow);
	*k = (struct key){0};
}

/* ---- words, options and their values ---- */

static bool
is_escaped_quote(struct str s, size_t at)
{
	return at + 1 < s.len && s.at[at] == '\\' && s.at[at + 1] == '"';
}

struct str
key_line_word(struct str *rest)
{
	while (rest->len && (rest->at[0] == ' ' || rest->at[0] == '\t')) {
		rest->at++;
		rest->len--;
	}
	size_t n = 0;
	bool quoted = false;
	while (n < rest->len && (quoted || (rest->at[n] != ' ' && rest->at[n] != '\t'))) {
		if (is_escaped_quote(*rest, n))
			n++;
		else if (rest->at[n] == '"')
			quoted = !quoted;
		n++;
	}
	const struct str word = {rest->at, n};
	rest->at += n;
	rest->len -= n;
	return word;
}

/* "…" off the front, with \" in it for ". */
static int
cut_value(struct str *rest, struct buf *out, struct err *err)
{
	size_t n = 1;

	buf_clear(out);
	while (n < rest->len && rest->at[n] != '"') {
		n += is_escaped_quote(*rest, n);
		buf_char(out, rest->at[n++]);
	}
	if (n >= rest->len)
		return err_set(err, ERR_CONFIG, "a quote that does not end");
	if (buf_bad(out))
		return err_set(err, ERR_CONFIG, "more than %d bytes between quotes", VALUE_BYTES);
	rest->at += n + 1;
	rest->len -= n + 1;
	return 0;
}

/* 1: name, or name="value", was cut off the front of a list; 0: it is used up. */
static int
cut_option(struct str *rest, struct str *name, struct buf *value, bool *has_value, struct err *err)
{
	size_t n = 0;

	*has_value = false;
	if (rest->len == 0)
		return 0;
	while (n < rest->len && rest->at[n] != '=' && rest->at[n] != ',')
		n++;
	*name = (struct str){rest->at, n};
	rest->at += n;
	rest->len -= n;
	if (rest->len && rest->at[0] == '=') {
		if (rest->len < 2 || rest->at[1] != '"')
			return err_set(err, ERR_CONFIG, "option %.*s: its value is not in quotes",
				       (int)(name->len > 60 ? 60 : name->len), name->at);
		rest->at++;
		rest->len--;
		*has_value = true;
		if (cut_value(rest, value, err) < 0)
			return -1;
	}
	if (rest->len == 0)
		return 1;
	if (rest->at[0] != ',' || rest->len == 1)
		return err_set(err, ERR_CONFIG, "after option %.*s: not a comma and an option",
			       (int)(name->len > 60 ? 60 : name->len), name->at);
	rest->at++;
	rest->len--;
	return 1;
}

static bool
name_is(struct str name, const char *known)
{
	return name.len == strlen(known) && strncasecmp(name.at, known, name.len) == 0;
}

/* ---- options with a value ---- */

int
key_line_time(struct str text, uint64_t *out_s, struct err *err)
{
	const bool utc = text.len && text.at[text.len - 1] == 'Z';
	const struct str digits = {text.at, text.len - utc};
	static const struct {
		unsigned digits, least, most;
	} parts[] = {{4, 1970, 9999}, {2, 1, 12}, {2, 1, 31}, {2, 0, 23}, {2, 0, 59}, {2, 0, 59}};
	uint64_t n[6] = {0};
	size_t at = 0;

	if (digits.len != 8 && digits.len != 12 && digits.len != 14)
		return err_set(err, ERR_CONFIG, "not of the form YYYYMMDD[HHMM[SS]][Z]");
	for (size_t i = 0; i < 6 && at < digits.len; at += parts[i++].digits)
		if (num_parse((struct str){digits.at + at, parts[i].digits}, parts[i].least,
			      parts[i].most, &n[i], err) < 0)
			return err_set(err, ERR_CONFIG, "not of the form YYYYMMDD[HHMM[SS]][Z]");
	struct tm tm = {
	    .tm_year = (int)n[0] - 1900,
	    .tm_mon = (int)n[1] - 1,
	    .tm_mday = (int)n[2],
	    .tm_hour = (int)n[3],
	    .tm_min = (int)n[4],
	    .tm_sec = (int)n[5],
	    .tm_isdst = -1,
	};
	const time_t t = utc ? timegm(&tm) : mktime(&tm);
	if (t <= 0 || tm.tm_mday != (int)n[2]) /* the 31st of a shorter month; 0 would be no end */
		return err_set(err, ERR_CONFIG, "there is no such day");
	*out_s = (uint64_t)t;
	return 0;
}

static int
take_text(char **field, const char *name, struct str value, struct err *err)
{
	if (*field)
		return err_set(err, ERR_CONFIG, "option %s is there twice", name);
	if (memchr(value.at, '\0', value.len))
		return err_set(err, ERR_CONFIG, "option %s has a NUL byte", name);
	*field = xstrndup(value);
	return 0;
}

static int
take_valued(struct key *k, struct str name, struct str value, struct err *err)
{
	uint64_t until_s;

	if (value.len == 0)
		return err_set(err, ERR_CONFIG, "an option that is empty");
	if (name_is(name, "role")) {
		if (k->role != PRINCIPAL_NOBODY)
			return err_set(err, ERR_CONFIG, "option role is there twice");
		k->role = principal_role_parse(value);
		return k->role != PRINCIPAL_NOBODY ? 0
						   : err_set(err, ERR_CONFIG, "no such role: %.*s",
							     (int)value.len, value.at);
	}
	if (name_is(name, "sessions")) {
		if (k->scope.globs[0])
			return err_set(err, ERR_CONFIG, "option sessions is there twice");
		return scope_parse(value, &k->scope, err);
	}
	if (name_is(name, "from"))
		return sources_check_patterns(value, err) < 0
			   ? err_add(err, "from")
			   : take_text(&k->from, "from", value, err);
	if (name_is(name, "principals"))
		return take_text(&k->principals, "principals", value, err);
	if (name_is(name, "permitopen"))
		return permits_add_open(&k->allow.open, value, err) < 0 ? err_add(err, "permitopen")
									: 0;
	if (name_is(name, "permitlisten"))
		return permits_add_listen(&k->allow.listen, value, err) < 0
			   ? err_add(err, "permitlisten")
			   : 0;
	if (!name_is(name, "expiry-time"))
		return err_set(err, ERR_CONFIG, "option not supported: %.*s",
			       (int)(name.len > 60 ? 60 : name.len), name.at);
	if (key_line_time(value, &until_s, err) < 0)
		return err_add(err, "expiry-time");
	if (k->until_s == 0 || until_s < k->until_s) /* the first to come, as OpenSSH */
		k->until_s = until_s;
	return 0;
}

/* ---- options without one ---- */

static int
take_flag(struct key *k, struct str name, struct err *err)
{
	static const struct {
		const char *name;
		enum allowance flag; /* 0: what it is about does not exist here */
	} flags[] = {
	    {"pty", ALLOW_PTY},
	    {"port-forwarding", ALLOW_PORT_FORWARDING},
	    {"agent-forwarding", ALLOW_AGENT_FORWARDING},
	    {"x11-forwarding", ALLOW_X11_FORWARDING},
	    {"user-rc", 0},
	};

	if (name_is(name, "restrict")) {
		k->allow.flags = 0;
		return 0;
	}
	if (name_is(name, "cert-authority")) {
		k->authority = true;
		return 0;
	}
	if (name_is(name, "no-touch-required")) {
		k->touchless = true;
		return 0;
	}
	const bool forbids = name.len > 3 && strncasecmp(name.at, "no-", 3) == 0;
	const struct str what = {name.at + (forbids ? 3 : 0), name.len - (forbids ? 3 : 0)};
	for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
		if (name_is(what, flags[i].name)) {
			if (forbids)
				k->allow.flags &= ~(unsigned)flags[i].flag;
			else
				k->allow.flags |= flags[i].flag;
			return 0;
		}
	return err_set(err, ERR_CONFIG, "option not supported: %.*s",
		       (int)(name.len > 60 ? 60 : name.len), name.at);
}

static int
parse_options(struct str options, struct key *k, struct err *err)
{
	auto_buf value = BUF_MAX(VALUE_BYTES);
	struct str name;
	bool has_value;
	int got;

	while ((got = cut_option(&options, &name, &value, &has_value, err)) == 1)
		if ((has_value ? take_valued(k, name, buf_view(&value), err)
			       : take_flag(k, name, err)) < 0)
			return -1;
	if (got == 0 && k->principals && !k->authority)
		return err_set(err, ERR_CONFIG, "principals is an option of a cert-authority");
	return got;
}

/* ---- the line ---- */

static int
take_key(struct key *k, struct str type, struct str base64, struct str comment, struct err *err)
{
	auto_buf blob = BUF_MAX(PUBKEY_BLOB_MAX_BYTES);
	char print[PUBKEY_FINGERPRINT_BYTES], tail[56] = "";
	struct str rest, inner;
	size_t used = 0;

	if (pubkey_decode(base64, &blob, err) < 0 || pubkey_check(buf_view(&blob), err) < 0)
		return -1;
	rest = buf_view(&blob);
	if (!pubkey_take_string(&rest, &inner) || !str_equal(inner, type))
		return err_set(err, ERR_CONFIG, "a key of another kind than it says");
	pubkey_fingerprint(buf_view(&blob), print);
	for (size_t i = 0; i < comment.len && used < sizeof tail - 1; i++)
		if (isgraph((unsigned char)comment.at[i]))
			tail[used++] = comment.at[i];
	snprintf(k->principal, sizeof k->principal, "%s%s%s", print, used ? " " : "", tail);
	k->blob_bytes = blob.len;
	k->blob = steal(&blob.at);
	return 0;
}

static int
parse(struct str line, struct key *k, struct err *err)
{
	struct str rest = line;
	struct str word = key_line_word(&rest);

	if (!pubkey_find_kind(word)) {
		if (parse_options(word, k, err) < 0)
			return -1;
		word = key_line_word(&rest);
		if (!pubkey_find_kind(word))
			return err_set(err, ERR_CONFIG, "not a kind of key: %.*s",
				       (int)(word.len > 60 ? 60 : word.len), word.at);
	}
	const struct str base64 = key_line_word(&rest);
	return take_key(k, word, base64, rest, err);
}

int
key_line_parse(struct str line, struct key *out, struct err *err)
{
	struct key k = {.role = PRINCIPAL_NOBODY, .allow.flags = ALLOW_ALL};

	while (line.len && strchr(" \t\r\n", line.at[line.len - 1]))
		line.len--;
	while (line.len && (line.at[0] == ' ' || line.at[0] == '\t')) {
		line.at++;
		line.len--;
	}
	if (line.len == 0 || line.at[0] == '#')
		return 0;
	if (parse(line, &k, err) < 0) {
		key_done(&k);
		err->code = ERR_CONFIG;
		return -1;
	}
	if (k.role == PRINCIPAL_NOBODY)
		k.role = PRINCIPAL_ORCHESTRATOR;
	*out = k;
	return 1;
}
