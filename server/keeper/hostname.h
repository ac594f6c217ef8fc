/* The session's name inside its sandbox. A step of sandbox.c, after the workspace became the root.
 */
#ifndef BERTH_HOSTNAME_H
#define BERTH_HOSTNAME_H

#include "tree.h"

/* Sets the hostname, and sees to it that /etc/hosts knows it. 0, or -1 with errno and in->at. */
int hostname_set(struct inside *in);
/* The same for a process that stands in the session's root, with its rights. "": no name yet, and
 * /etc/hosts stays. 0, or -1 with errno. */
int hostname_set_to(const char *name);

#endif
