/* The libssh that berth-conn is linked with, as the package manager of this node knows it: fixes
 * reach Debian's package without a new version of the library itself. */
#ifndef BERTH_LIBSSH_H
#define BERTH_LIBSSH_H

#include "base/buf.h"
#include "base/err.h"

/* The first package whose known holes are closed, and the library it is of. */
#define LIBSSH_PACKAGE_LEAST "0.10.6-0+deb12u3"

/* Says what there is, in words for a line of `berthd --check`. UNAVAILABLE: it has known holes.
 *   dir   where dpkg's `status` is */
int libssh_check(const char *dir, struct buf *out, struct err *err) must_check;
/* Debian's order of versions: below 0, 0, above 0. */
int libssh_compare(struct str a, struct str b);

#endif
