/* Files in memory that nobody can change. */
#ifndef BERTH_SEALED_H
#define BERTH_SEALED_H

#include "base/err.h"

#include <fcntl.h>
#include <sys/types.h>

#define SEALED_OWN ((uid_t)-1) /* whoever we are */

/* A sealed copy of all that `file` has from where it stands on, at most 16 MiB.
 *   name    as /proc shows it
 *   owner   uid and gid
 *   flags   O_PATH or O_RDONLY: as what it is opened; a file open for writing cannot be executed */
int sealed_copy(int file, const char *name, uid_t owner, mode_t mode, int flags,
		struct err *err) must_check;

#endif
