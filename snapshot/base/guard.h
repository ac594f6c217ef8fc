/* A bound on system calls that somebody else can make wait: on a descriptor whose flags he shares
 * (a PTY's master came from init, which may keep a duplicate and clear O_NONBLOCK on both), or
 * whose last close waits for a peer as long as he has told it to (SO_LINGER of a socket). */
#ifndef BERTH_GUARD_H
#define BERTH_GUARD_H

#include <sys/types.h>

/* As read(2) and write(2), but never waiting longer than a tenth of a second: EAGAIN then. */
ssize_t guard_read(int fd, void *out, size_t n);
ssize_t guard_write(int fd, const void *at, size_t n);
/* As fd_close, for what came from a peer that nobody trusts. */
void guard_close(int *fd);

/* What waits between the two is interrupted after a tenth of a second, and again. They nest. */
void guard_begin(void);
void guard_end(void);

#endif
