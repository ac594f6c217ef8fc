/* Bytes: `struct str` is a view that owns nothing, `struct buf` a growing text with a bound.
 *
 * Invariants of a buf: (1) len <= cap <= max, (2) what would pass max sets `bad` and changes
 * nothing more, (3) at[len] is a NUL that does not count, once anything was appended. So append
 * ten times and ask buf_bad once. */
#ifndef BERTH_BUF_H
#define BERTH_BUF_H

#include "err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct str {
	const char *at; /* lent; may hold NUL bytes, need not end in one */
	size_t len;
};

#define STR_LIT(s) ((struct str){(s), sizeof(s) - 1})

static inline struct str
str_of(const char *s)
{
	return (struct str){s, s ? strlen(s) : 0};
}

static inline bool
str_is(struct str a, const char *b)
{
	const size_t n = strlen(b);
	return a.len == n && memcmp(a.at, b, n) == 0;
}

static inline bool
str_equal(struct str a, struct str b)
{
	return a.len == b.len && (a.len == 0 || memcmp(a.at, b.at, a.len) == 0);
}

bool str_starts(struct str s, const char *front);
/* Without the spaces around it. */
struct str str_trim(struct str s);
/* Cuts off what stands before `sep` (all of it when there is none) and moves *rest behind it.
 * Returns false when *rest was used up. */
bool str_cut(struct str *rest, char sep, struct str *out);
/* Glob with * and ? over the whole of s; no classes, no escapes, linear memory. */
bool str_glob(struct str pattern, struct str s);
/* Copies into a fixed array, with a NUL. Fails with USAGE when it does not fit or holds a NUL. */
int str_copy(struct str s, char *out, size_t out_bytes, struct err *err) must_check;
/* What a terminal would heed and not show becomes `with`, byte by byte: C0 but those in `but`, DEL,
 * and C1 as UTF-8 has it. */
void str_hide_controls(char *text, size_t n, const char *but, char with);

struct buf {
	char *at; /* owned */
	size_t len, cap, max;
	bool bad;
};

#define BUF_MAX(max_bytes) ((struct buf){.max = (max_bytes)})
#define auto_buf           __attribute__((cleanup(buf_free))) struct buf

void buf_free(struct buf *b);
void buf_clear(struct buf *b);
/* Room for n more bytes to be written by the caller, who then adds to len; NULL when bad. */
char *buf_room(struct buf *b, size_t n);
void buf_add(struct buf *b, const void *bytes, size_t n);
void buf_str(struct buf *b, struct str s);
void buf_text(struct buf *b, const char *s);
void buf_char(struct buf *b, char c);
void buf_fmt(struct buf *b, const char *fmt, ...) printflike(2, 3);
/* True when an append did not fit or memory ran out. */
static inline bool
buf_bad(const struct buf *b)
{
	return b->bad;
}
static inline struct str
buf_view(const struct buf *b)
{
	return (struct str){b->at, b->len};
}
/* The text with its NUL, never NULL; lent until the next append. */
const char *buf_cstr(struct buf *b);

/* Memory of a size we chose: aborts when there is none. Zeroed. */
void *xnew(size_t n, size_t size);
/* Room for one more behind n elements of an array that has *cap (take_at NULL: none): the array,
 * which may have moved. What is new of it is zeroed. */
void *xgrow(void *take_at, size_t n, size_t *cap, size_t size);
char *xstrdup(const char *s);
char *xstrndup(struct str s);
/* Memory of a size someone else chose, bounded before: NULL when there is none. Zeroed. */
void *try_new(size_t n, size_t size);

void free_ptr(void *pp);
#define auto_free     __attribute__((cleanup(free_ptr)))
#define auto_of(type) __attribute__((cleanup(type##_freep)))
#define AUTO_OF(type)                                                                              \
	static inline void type##_freep(struct type **p)                                           \
	{                                                                                          \
		type##_free(*p);                                                                   \
	}
/* Gives a pointer away: the variable is NULL afterwards. */
#define steal(pp)                                                                                  \
	({                                                                                         \
		__typeof__(*(pp)) stolen_ = *(pp);                                                 \
		*(pp) = NULL;                                                                      \
		stolen_;                                                                           \
	})

#endif
