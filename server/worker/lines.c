#include "lines.h"
#include "base/time.h"

#include <stdio.h>
#include <time.h>

/* How many bytes of UTF-8 stand at the front; 0: none, it is to be escaped. C1 controls are too. */
static size_t
shown_bytes(struct str s)
{
	const uint8_t *p = (const uint8_t *)s.at;
	const size_t n = *p < 0x80                 ? 1
			 : *p >= 0xc2 && *p < 0xe0 ? 2
			 : *p >= 0xe0 && *p < 0xf0 ? 3
			 : *p >= 0xf0 && *p < 0xf5 ? 4
						   : 0;

	if (n == 0 || n > s.len || *p < 0x20 || *p == 0x7f || *p == '\\')
		return 0;
	for (size_t i = 1; i < n; i++)
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	if ((*p == 0xc2 && p[1] < 0xa0) || (*p == 0xe0 && p[1] < 0xa0) ||
	    (*p == 0xed && p[1] > 0x9f) || (*p == 0xf0 && p[1] < 0x90) ||
	    (*p == 0xf4 && p[1] > 0x8f))
		return 0;
	return n;
}

void
lines_path(struct buf *out, struct str path)
{
	while (path.len) {
		const size_t n = shown_bytes(path), taken = n ? n : 1;
		if (n)
			buf_add(out, path.at, n);
		else
			buf_fmt(out, "\\x%02x", (uint8_t)*path.at);
		path.at += taken;
		path.len -= taken;
	}
}

void
lines_quoted(struct buf *out, const char *front, struct str path)
{
	bool plain = true;

	for (size_t i = 0; i < path.len; i++)
		plain &= (uint8_t)path.at[i] >= 0x20 && (uint8_t)path.at[i] < 0x7f &&
			 path.at[i] != '"' && path.at[i] != '\\';
	buf_fmt(out, "%s%s", plain ? "" : "\"", front);
	for (size_t i = 0; i < path.len; i++) {
		const uint8_t c = (uint8_t)path.at[i];
		if (c == '"' || c == '\\')
			buf_fmt(out, "\\%c", c);
		else if (c < 0x20 || c >= 0x7f)
			buf_fmt(out, "\\%03o", c);
		else
			buf_char(out, (char)c);
	}
	if (!plain)
		buf_char(out, '"');
}

void
lines_json(struct buf *out, struct str text)
{
	buf_char(out, '"');
	while (text.len) {
		const uint8_t c = (uint8_t)*text.at;
		const size_t n = c == '\\' ? 0 : shown_bytes(text), taken = n ? n : 1;
		if (c == '"' || c == '\\')
			buf_fmt(out, "\\%c", c);
		else if (n)
			buf_add(out, text.at, n);
		else if (c < 0x20 || c == 0x7f)
			buf_fmt(out, "\\u%04x", c);
		else
			buf_text(out, "\xef\xbf\xbd"); /* U+FFFD: no UTF-8, or a C1 control */
		text.at += taken;
		text.len -= taken;
	}
	buf_char(out, '"');
}

void
lines_mode(struct buf *out, enum entry_type type, uint32_t mode)
{
	static const char types[ENTRY_TYPES + 1] = "-dlp-??";
	static const char bits[] = "rwxrwxrwx";
	char text[11] = {types[type]};

	for (int i = 0; i < 9; i++)
		text[1 + i] = mode >> (8 - i) & 1 ? bits[i] : '-';
	if (mode & 04000)
		text[3] = mode & 0100 ? 's' : 'S';
	if (mode & 02000)
		text[6] = mode & 0010 ? 's' : 'S';
	if (mode & 01000)
		text[9] = mode & 0001 ? 't' : 'T';
	buf_add(out, text, 10);
}

void
lines_time(struct buf *out, int64_t ns)
{
	const int64_t fraction = ns % (int64_t)NS_PER_S;
	const time_t s = (time_t)(ns / (int64_t)NS_PER_S - (fraction < 0));
	char text[40];
	struct tm tm;

	if (!gmtime_r(&s, &tm) || strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &tm) == 0)
		snprintf(text, sizeof text, "@%lld", (long long)s);
	buf_text(out, text);
}

const char *
lines_type(enum entry_type type)
{
	static const char *const names[ENTRY_TYPES] = {"file", "directory", "symlink", "fifo",
						       "file", "deletion",  "opaque"};
	return names[type];
}
