/* Two texts as a unified diff (as `diff -u` and `patch` have it), by lines. Shortest scripts as far
 * as TEXT_DIFF_STEPS_MAX changed lines; beyond them what lies between the first and the last change
 * is told as one replacement. */
#ifndef BERTH_TEXT_DIFF_H
#define BERTH_TEXT_DIFF_H

#include "base/buf.h"
#include "base/err.h"

enum { TEXT_DIFF_STEPS_MAX = 2000, TEXT_DIFF_MAX_BYTES = 16 << 20, TEXT_DIFF_LINES_MAX = 1 << 20 };

/* Whether it is text: no NUL in its beginning, and no longer than TEXT_DIFF_MAX_BYTES. */
bool text_diff_is_text(struct str bytes);
/* Hunks with three lines of context, without the two lines of names; nothing where they are equal.
 */
int text_diff(struct str a, struct str b, struct buf *out, struct err *err) must_check;

#endif
