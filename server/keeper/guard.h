/* Reading and writing a descriptor whose flags somebody else can change: a PTY's master came from
 * init, which may keep a duplicate and clear O_NONBLOCK on both. */
#ifndef BERTH_GUARD_H
#define BERTH_GUARD_H

#include <sys/types.h>

/* As read(2) and write(2), but never waiting longer than a tenth of a second: EAGAIN then. */
ssize_t guard_read(int fd, void *out, size_t n);
ssize_t guard_write(int fd, const void *at, size_t n);

#endif
