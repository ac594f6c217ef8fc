/* File descriptors: owned by one variable, -1 when it owns none, always close-on-exec. */
#ifndef BERTH_FD_H
#define BERTH_FD_H

#include "buf.h"
#include "err.h"

#include <sys/types.h>

/* Closes *fd when it is not -1, and makes it -1. Not repeated on EINTR: Linux has freed it. */
void fd_close(int *fd);
#define auto_close __attribute__((cleanup(fd_close)))

static inline int
fd_steal(int *fd)
{
	const int mine = *fd;
	*fd = -1;
	return mine;
}

/* A duplicate with close-on-exec. */
int fd_dup(int fd, struct err *err) must_check;
int fd_set_nonblock(int fd, struct err *err) must_check;
/* Writes all of it, waiting where the fd makes it wait (for files and blocking pipes). */
int fd_write_all(int fd, const void *bytes, size_t n, struct err *err) must_check;
int fd_pwrite_all(int fd, const void *bytes, size_t n, uint64_t at, struct err *err) must_check;
/* Reads exactly n bytes at an offset; ERR_CORRUPT when the file ends before. */
int fd_pread_all(int fd, void *out, size_t n, uint64_t at, struct err *err) must_check;
/* Appends all that the fd yields to a buf; fails when its bound is passed. */
int fd_read_to_end(int fd, struct buf *out, struct err *err) must_check;
/* A sealed anonymous file with these bytes, readable only. */
int fd_sealed(const char *name, const void *bytes, size_t n, struct err *err) must_check;

#endif
