#include "err.h"
#include "buf.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct {
	const char *json;
	int exit;
	const char *hint;
} rows[ERR_CODES] = {
#define ERR(name, json, exit, hint) {json, exit, hint},
#include "err.def"
#undef ERR
};

/* Marks a text that did not fit; never splits what stands before it by more than 3 bytes. */
static void
mark_cut(char *text, size_t size)
{
	static const char mark[] = "\xe2\x80\xa6";

	size_t at = size - sizeof mark;
	while (at > 0 && ((unsigned char)text[at] & 0xc0) == 0x80)
		at--; /* do not leave half a UTF-8 sequence */
	memcpy(text + at, mark, sizeof mark);
}

static void
format_into(char *out, size_t size, const char *fmt, va_list ap)
{
	const int n = vsnprintf(out, size, fmt, ap);
	if (n < 0)
		out[0] = '\0';
	else if ((size_t)n >= size)
		mark_cut(out, size);
}

int
err_set(struct err *err, enum err_code code, const char *fmt, ...)
{
	va_list ap;

	*err = (struct err){.code = code};
	va_start(ap, fmt);
	format_into(err->why, sizeof err->why, fmt, ap);
	va_end(ap);
	return -1;
}

static enum err_code
code_of_errno(int number)
{
	switch (number) {
	case ENOSPC:
	case EDQUOT:
		return ERR_NO_SPACE;
	case EADDRINUSE:
		return ERR_UNAVAILABLE;
	default:
		return ERR_INTERNAL;
	}
}

int
err_sys(struct err *err, int number, const char *fmt, ...)
{
	va_list ap;
	char subject[384];

	*err = (struct err){.code = code_of_errno(number)};
	va_start(ap, fmt);
	format_into(subject, sizeof subject, fmt, ap);
	va_end(ap);

	char reason[96];
#ifdef __GLIBC__
	const char *text = strerrordesc_np(number); /* never localised */
#else
	const char *text = strerror(number);
#endif
	snprintf(reason, sizeof reason, "%s", text ? text : "unknown error");
	if (reason[0] >= 'A' && reason[0] <= 'Z' && !(reason[1] >= 'A' && reason[1] <= 'Z'))
		reason[0] = (char)(reason[0] - 'A' + 'a');
	snprintf(err->why, sizeof err->why, "%s: %s", subject, reason);
	return -1;
}

int
err_add(struct err *err, const char *fmt, ...)
{
	va_list ap;
	char front[256];
	char whole[sizeof err->why];

	va_start(ap, fmt);
	format_into(front, sizeof front, fmt, ap);
	va_end(ap);
	const int n = snprintf(whole, sizeof whole, "%s: %s", front, err->why);
	if (n >= (int)sizeof whole)
		mark_cut(whole, sizeof whole);
	memcpy(err->why, whole, sizeof whole);
	return -1;
}

int
err_what(struct err *err, const char *fmt, ...)
{
	va_list ap;

	if (err->what[0])
		return -1;
	va_start(ap, fmt);
	format_into(err->what, sizeof err->what, fmt, ap);
	va_end(ap);
	return -1;
}

int
err_hint(struct err *err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	format_into(err->hint, sizeof err->hint, fmt, ap);
	va_end(ap);
	return -1;
}

size_t
err_line(const struct err *err, char *out, size_t out_bytes)
{
	const char *hint = err->hint[0] ? err->hint : err_default_hint(err->code);
	const int n =
	    snprintf(out, out_bytes, "berth: %s%s%s%s%s%s", err->what, err->what[0] ? ": " : "",
		     err->why, hint[0] ? " (" : "", hint, hint[0] ? ")" : "");
	if (n < 0)
		return 0;
	if ((size_t)n >= out_bytes)
		mark_cut(out, out_bytes);
	const size_t length = strlen(out);
	/* a library's or a peer's text must not make it two, or colour it */
	str_hide_controls(out, length, "", ' ');
	return length;
}

int
err_exit(enum err_code code)
{
	return rows[code].exit;
}

const char *
err_json(enum err_code code)
{
	return rows[code].json;
}

const char *
err_default_hint(enum err_code code)
{
	return rows[code].hint;
}

enum err_code
err_from_number(unsigned long number)
{
	return number > ERR_NONE && number < ERR_CODES ? (enum err_code)number : ERR_INTERNAL;
}
