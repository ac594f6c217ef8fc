/* Sessions that are made for one purpose and removed when that is done: to run a command on a
 * snapshot, to read one. They have rows, so that what they stand on counts as used and a manager
 * that dies leaves nothing that the next does not find; but no name that a user could say, and no
 * list shows them.
 *
 *  1. nothing of one is ever captured; no ref tells of it;
 *  2. a manager that starts removes all that its predecessor left;
 *  3. its row goes last: as long as there are files or processes there is a row. */
#ifndef BERTH_THROWAWAY_H
#define BERTH_THROWAWAY_H

#include "manager/origin.h"

/* On what `o` says, whose choices.throwaway tells what for; nothing runs yet. of: the session that
 * it seems to be, from inside. lost: told when it ends by itself, or the server does; once, and
 * never after throwaway_end. */
int throwaway_make(const struct session *of, const struct origin *o, const char *owner,
		   void (*lost)(void *ctx, const struct err *why), void *ctx, struct session **out,
		   struct err *err) must_check;
/* Whatever it is at: its processes end, its files and its row go. Nobody waits for that. */
void throwaway_end(struct session *s);
/* The same, and whoever wants it is told why. */
void throwaway_lose(struct session *s, const struct err *why);
/* Its end takes too long. */
void throwaway_overdue(struct session *s, const struct err *why);
/* Its keeper has ended, or an earlier manager has left it. */
void throwaway_gone(struct session *s);

#endif
