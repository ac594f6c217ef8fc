#include "sealed.h"
#include "base/buf.h"
#include "base/fd.h"

#include <errno.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010u /* Linux 6.3 */
#endif

enum { SEALED_MAX_BYTES = 16 << 20 };

static int
make_memfd(const char *name, struct err *err)
{
	const unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
	int fd = memfd_create(name, flags | MFD_EXEC);
	if (fd < 0 && errno == EINVAL)
		fd = memfd_create(name, flags); /* older: always executable */
	if (fd < 0)
		return err_sys(err, errno, "make an anonymous file for %s", name);
	return fd;
}

int
sealed_copy(int file, const char *name, uid_t owner, mode_t mode, int flags, struct err *err)
{
	auto_buf bytes = BUF_MAX(SEALED_MAX_BYTES);
	char path[64];

	if (fd_read_to_end(file, &bytes, err) < 0)
		return err_add(err, "read %s", name);
	auto_close int copy = make_memfd(name, err);
	if (copy < 0 || fd_write_all(copy, bytes.at, bytes.len, err) < 0)
		return -1;
	if ((owner != SEALED_OWN && fchown(copy, owner, owner) < 0) || fchmod(copy, mode) < 0)
		return err_sys(err, errno, "set the owner and mode of the copy of %s", name);
	if (fcntl(copy, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0)
		return err_sys(err, errno, "seal the copy of %s", name);
	/* Once more without the right to write: see flags. */
	snprintf(path, sizeof path, "/proc/self/fd/%d", copy);
	const int fd = open(path, flags | O_CLOEXEC);
	if (fd < 0)
		return err_sys(err, errno, "open the copy of %s", name);
	return fd;
}
