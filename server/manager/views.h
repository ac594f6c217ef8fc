/* What is behind SESSION+SNAPSHOT@host: a throwaway session on a snapshot, whose root is read-only
 * and which serves sftp alone. All connections to one snapshot share it; it ends with the last of
 * them. */
#ifndef BERTH_VIEWS_H
#define BERTH_VIEWS_H

#include "manager/session.h"

/* Whether it names a view; *out_session: the part that is a session's. */
bool views_is(struct str user, struct str *out_session);
/* The view of c->user: found, or made. NULL: ABSENT, DENIED. */
struct session *views_of(struct conn *c, struct err *err);
/* The connection has gone. */
void views_leave(struct conn *c);
/* The session of a view has ended. */
void views_lost(const struct session *s);

#endif
