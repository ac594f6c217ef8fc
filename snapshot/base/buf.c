#include "buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

bool
str_starts(struct str s, const char *front)
{
	const size_t n = strlen(front);
	return s.len >= n && memcmp(s.at, front, n) == 0;
}

struct str
str_trim(struct str s)
{
	while (s.len && s.at[0] == ' ') {
		s.at++;
		s.len--;
	}
	while (s.len && s.at[s.len - 1] == ' ')
		s.len--;
	return s;
}

bool
str_cut(struct str *rest, char sep, struct str *out)
{
	if (!rest->at)
		return false;
	const char *end = rest->len ? memchr(rest->at, sep, rest->len) : NULL;
	if (!end) {
		*out = *rest;
		*rest = (struct str){NULL, 0};
		return true;
	}
	const size_t n = (size_t)(end - rest->at);
	*out = (struct str){rest->at, n};
	*rest = (struct str){end + 1, rest->len - n - 1};
	return true;
}

void
str_hide_controls(char *text, size_t n, const char *but, char with)
{
	for (size_t i = 0; i < n; i++) {
		const unsigned char c = (unsigned char)text[i];
		const bool c1 = c == 0xc2 && i + 1 < n && (unsigned char)text[i + 1] >= 0x80 &&
				(unsigned char)text[i + 1] < 0xa0;

		if (c1 || c == 0x7f || (c < 0x20 && (!c || !strchr(but, c))))
			text[i] = with;
		if (c1)
			text[++i] = with;
	}
}

bool
str_glob(struct str pattern, struct str s)
{
	size_t p = 0, i = 0, star = SIZE_MAX, mark = 0;

	while (i < s.len) {
		if (p < pattern.len && (pattern.at[p] == '?' || pattern.at[p] == s.at[i]) &&
		    pattern.at[p] != '*') {
			p++;
			i++;
		} else if (p < pattern.len && pattern.at[p] == '*') {
			star = p++;
			mark = i;
		} else if (star != SIZE_MAX) {
			p = star + 1;
			i = ++mark;
		} else {
			return false;
		}
	}
	while (p < pattern.len && pattern.at[p] == '*')
		p++;
	return p == pattern.len;
}

int
str_copy(struct str s, char *out, size_t out_bytes, struct err *err)
{
	if (s.len >= out_bytes)
		return err_set(err, ERR_USAGE, "text of %zu bytes where %zu fit", s.len,
			       out_bytes - 1);
	if (s.len && memchr(s.at, '\0', s.len))
		return err_set(err, ERR_USAGE, "text holds a NUL byte");
	if (s.len)
		memcpy(out, s.at, s.len);
	out[s.len] = '\0';
	return 0;
}

void
buf_free(struct buf *b)
{
	free(b->at);
	*b = (struct buf){.max = b->max};
}

void
buf_clear(struct buf *b)
{
	b->len = 0;
	b->bad = false;
	if (b->at)
		b->at[0] = '\0';
}

char *
buf_room(struct buf *b, size_t n)
{
	size_t need;

	if (b->bad)
		return NULL;
	if (__builtin_add_overflow(b->len, n, &need) || need > b->max) {
		b->bad = true;
		return NULL;
	}
	if (need > b->cap || !b->at) {
		size_t cap = b->cap ? b->cap : 64;
		while (cap < need)
			cap = cap > b->max / 2 ? b->max : cap * 2;
		if (cap > b->max)
			cap = b->max;
		char *at = realloc(b->at, cap + 1);
		if (!at) {
			b->bad = true;
			return NULL;
		}
		b->at = at;
		b->cap = cap;
	}
	return b->at + b->len;
}

void
buf_add(struct buf *b, const void *bytes, size_t n)
{
	char *room = buf_room(b, n);
	if (!room)
		return;
	if (n)
		memcpy(room, bytes, n);
	b->len += n;
	b->at[b->len] = '\0';
}

void
buf_str(struct buf *b, struct str s)
{
	buf_add(b, s.at, s.len);
}

void
buf_text(struct buf *b, const char *s)
{
	buf_add(b, s, strlen(s));
}

void
buf_char(struct buf *b, char c)
{
	buf_add(b, &c, 1);
}

void
buf_fmt(struct buf *b, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	const int n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n < 0) {
		b->bad = true;
		return;
	}
	char *room = buf_room(b, (size_t)n);
	if (!room)
		return;
	va_start(ap, fmt);
	vsnprintf(room, (size_t)n + 1, fmt, ap);
	va_end(ap);
	b->len += (size_t)n;
}

const char *
buf_cstr(struct buf *b)
{
	return b->at ? b->at : "";
}

static void
out_of_memory(void)
{
	static const char text[] = "berth: out of memory\n";
	fwrite(text, 1, sizeof text - 1, stderr);
	abort();
}

void *
xnew(size_t n, size_t size)
{
	void *p = calloc(n, size);
	if (!p)
		out_of_memory();
	return p;
}

void *
xgrow(void *take_at, size_t n, size_t *cap, size_t size)
{
	if (n < *cap)
		return take_at;
	*cap = *cap ? 2 * *cap : 64;
	void *at = xnew(*cap, size);
	if (n)
		memcpy(at, take_at, n * size);
	free(take_at);
	return at;
}

char *
xstrdup(const char *s)
{
	char *p = strdup(s);
	if (!p)
		out_of_memory();
	return p;
}

char *
xstrndup(struct str s)
{
	char *p = xnew(s.len + 1, 1);
	if (s.len)
		memcpy(p, s.at, s.len);
	return p;
}

void *
try_new(size_t n, size_t size)
{
	return calloc(n, size);
}

void
free_ptr(void *pp)
{
	free(*(void **)pp);
}
