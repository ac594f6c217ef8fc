/* Whether a log is whole: every line there, unchanged, once, in its place, and signed.
 *
 * What is found: a line that was changed, left out, moved or doubled (its neighbours do not fit); a
 * file that is missing, renamed or cut; a head that is not signed, or not by a key that is expected;
 * lines without a head over a longer way than the manager leaves (who rewrites the chain cannot sign).
 * What cannot be found without a head kept elsewhere: that lines are missing at the very end; and what
 * stands behind the last head is bound by nothing but the lines that follow it. */
#ifndef BERTH_CHECK_H
#define BERTH_CHECK_H

#include "audit/chain.h"

enum { CHECK_KEYS_MAX = 8, CHECK_FOUND_MAX = 100 };

/* line 0: the file as a whole; file NULL: the log. broken false: to be known, and well. */
typedef void (*check_fn)(void *ctx, bool broken, const char *file, uint64_t line, const char *words);

struct check {
	/* what is expected, lent */
	const char *keys[CHECK_KEYS_MAX]; /* base64 words; none: whatever key a head names */
	size_t n_keys;
	struct str head; /* a line of kind head that must be in the log; empty: none */
	check_fn fn;
	void *ctx;
	/* what was found */
	struct chain chain;
	uint64_t files, lines, heads, unsigned_lines, found;
	char key[72]; /* of the last head */
};

/*   returns   0: what is wrong was told to fn and counted in `found`; -1: it could not be read */
int check_log(int dir, struct check *c, struct err *err) must_check;

#endif
