/* A failure that grows on its way up: code, what was tried, why it failed, what to do.
 *
 * Functions that can fail return -1 and fill the struct err they were lent. Each level adds only
 * what it alone knows: err_set or err_sys where it happens, err_add on the way, err_what at the
 * edge. Text is of fixed size and cut with "…": reporting a failure must not fail. */
#ifndef BERTH_ERR_H
#define BERTH_ERR_H

#include <stddef.h>

#define must_check       __attribute__((warn_unused_result))
#define printflike(f, a) __attribute__((format(printf, f, a)))

enum err_code {
#define ERR(name, json, exit, hint) ERR_##name,
#include "err.def"
#undef ERR
	ERR_CODES
};

struct err {
	enum err_code code;
	char what[128]; /* set once, at the edge */
	char why[512];
	char hint[160]; /* empty: the standing hint of the code */
};

/* Starts a failure from our own knowledge. Returns -1, so that it can be returned. */
int err_set(struct err *err, enum err_code code, const char *fmt, ...) printflike(3, 4);

/* Starts a failure from errno `number`: its text is added after the formatted part, and the code
 * follows from it (ENOSPC and EDQUOT: NO_SPACE; EADDRINUSE: UNAVAILABLE; else INTERNAL). */
int err_sys(struct err *err, int number, const char *fmt, ...) printflike(3, 4);

/* Puts more context before what is there. Returns -1. */
int err_add(struct err *err, const char *fmt, ...) printflike(2, 3);

/* Says what was wanted as a whole; the first caller wins. Returns -1. */
int err_what(struct err *err, const char *fmt, ...) printflike(2, 3);

/* Replaces the standing hint. Returns -1. */
int err_hint(struct err *err, const char *fmt, ...) printflike(2, 3);

/* The one line a user sees, without newline: `berth: WHAT: WHY (HINT)`. Returns its length. */
size_t err_line(const struct err *err, char *out, size_t out_bytes);

int err_exit(enum err_code code);
const char *err_json(enum err_code code);
const char *err_default_hint(enum err_code code);
/* The code for a number that came over a wire; ERR_INTERNAL when there is no such code. */
enum err_code err_from_number(unsigned long number);

#endif
