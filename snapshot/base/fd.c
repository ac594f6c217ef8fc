#include "fd.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

void
fd_close(int *fd)
{
	if (*fd >= 0) {
		const int saved = errno;
		close(*fd);
		errno = saved;
	}
	*fd = -1;
}

int
fd_dup(int fd, struct err *err)
{
	const int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (copy < 0)
		return err_sys(err, errno, "duplicate a file descriptor");
	return copy;
}

int
fd_set_nonblock(int fd, struct err *err)
{
	const int flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return err_sys(err, errno, "make a file descriptor nonblocking");
	return 0;
}

int
fd_write_all(int fd, const void *bytes, size_t n, struct err *err)
{
	const char *at = bytes;

	while (n) {
		const ssize_t k = write(fd, at, n);
		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return err_sys(err, errno, "write");
		at += k;
		n -= (size_t)k;
	}
	return 0;
}

int
fd_pwrite_all(int fd, const void *bytes, size_t n, uint64_t at, struct err *err)
{
	const char *from = bytes;

	while (n) {
		const ssize_t k = pwrite(fd, from, n, (off_t)at);
		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return err_sys(err, errno, "write");
		from += k;
		at += (uint64_t)k;
		n -= (size_t)k;
	}
	return 0;
}

int
fd_pread_all(int fd, void *out, size_t n, uint64_t at, struct err *err)
{
	char *to = out;

	while (n) {
		const ssize_t k = pread(fd, to, n, (off_t)at);
		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return err_sys(err, errno, "read");
		if (k == 0)
			return err_set(err, ERR_CORRUPT, "the file ends %zu bytes too early", n);
		to += k;
		at += (uint64_t)k;
		n -= (size_t)k;
	}
	return 0;
}

int
fd_read_to_end(int fd, struct buf *out, struct err *err)
{
	for (;;) {
		char chunk[16384];
		const ssize_t k = read(fd, chunk, sizeof chunk);
		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return err_sys(err, errno, "read");
		if (k == 0)
			return 0;
		buf_add(out, chunk, (size_t)k);
		if (buf_bad(out))
			return err_set(err, ERR_CORRUPT, "more than %zu bytes", out->max);
	}
}

int
fd_sealed(const char *name, const void *bytes, size_t n, struct err *err)
{
	auto_close int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return err_sys(err, errno, "make an anonymous file");
	if (fd_write_all(fd, bytes, n, err) < 0)
		return -1;
	if (lseek(fd, 0, SEEK_SET) < 0 ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0)
		return err_sys(err, errno, "seal an anonymous file");
	return fd_steal(&fd);
}
