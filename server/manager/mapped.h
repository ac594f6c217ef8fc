/* Whether a process of a session may write to files through memory that maps them. */
#ifndef BERTH_MAPPED_H
#define BERTH_MAPPED_H

#include <stdbool.h>

/* Asked while they are frozen: who maps a file later, or is let write to it later, is seen by the file's
 * ctime. False only when that is known of each process; node: as cgroup.h has it, or -1. */
bool mapped_may_write(int node, const char *id);

#endif
