/* The little JSON that is written without a library, by processes that link none. */
#include "verbs.h"

#include <stdio.h>

/* The length of the UTF-8 sequence at the front of s, 0 when there is none: RFC 3629, table of
 * section 4, so no overlong forms, no surrogates, nothing above U+10FFFF. */
static size_t
sequence(struct str s)
{
	const unsigned char *p = (const unsigned char *)s.at;
	const unsigned char first = p[0];
	size_t n;
	unsigned char low = 0x80, high = 0xbf;

	if (first < 0x80)
		return 1;
	if (first >= 0xc2 && first <= 0xdf)
		n = 2;
	else if (first >= 0xe0 && first <= 0xef)
		n = 3;
	else if (first >= 0xf0 && first <= 0xf4)
		n = 4;
	else
		return 0;
	if (first == 0xe0)
		low = 0xa0;
	if (first == 0xed)
		high = 0x9f;
	if (first == 0xf0)
		low = 0x90;
	if (first == 0xf4)
		high = 0x8f;
	if (s.len < n || p[1] < low || p[1] > high)
		return 0;
	for (size_t i = 2; i < n; i++)
		if (p[i] < 0x80 || p[i] > 0xbf)
			return 0;
	return n;
}

void
json_put(struct buf *out, struct str s)
{
	buf_char(out, '"');
	while (s.len) {
		const unsigned char c = (unsigned char)s.at[0];
		const size_t n = sequence(s);

		if (n == 0)
			buf_text(out, "\xef\xbf\xbd");
		else if (c == '"' || c == '\\')
			buf_fmt(out, "\\%c", c);
		else if (c == '\n')
			buf_text(out, "\\n");
		else if (c < 0x20 || c == 0x7f)
			buf_fmt(out, "\\u%04x", c);
		else if (c == 0xc2 && (unsigned char)s.at[1] < 0xa0) /* C1: terminals heed it */
			buf_fmt(out, "\\u%04x", (unsigned char)s.at[1]);
		else
			buf_add(out, s.at, n);
		s.at += n ? n : 1;
		s.len -= n ? n : 1;
	}
	buf_char(out, '"');
}

void
json_put_error(struct buf *out, const struct err *err)
{
	char message[sizeof err->what + sizeof err->why + 4];

	snprintf(message, sizeof message, "%s%s%s", err->what, err->what[0] ? ": " : "", err->why);
	buf_text(out, "{\"code\":");
	json_put(out, str_of(err_json(err->code)));
	buf_text(out, ",\"message\":");
	json_put(out, str_of(message));
	buf_text(out, ",\"hint\":");
	json_put(out, str_of(err->hint[0] ? err->hint : err_default_hint(err->code)));
	buf_char(out, '}');
}
