#include "quota.h"
#include "base/fd.h"
#include "base/path.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/quota.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef PRJQUOTA
#define PRJQUOTA 2
#endif

enum {
	BLOCK_BYTES = 1024, /* of limits; what is used is counted in bytes */
	INODE_BYTES = 4096, /* so many bytes of a limit allow one inode, and some more: ... */
	INODES_LEAST = 1024,
	PROJECTS_TRIED = 1024,
	PROBE_BYTES = 64 << 10, /* the tiny quota; four times that is written */
};

/* ---- the calls ---- */

/* By a directory of the filesystem, from Linux 5.14 on: no block device must be known. */
static int
call(int dir, unsigned command, uint32_t project, struct if_dqblk *q)
{
	return (int)syscall(SYS_quotactl_fd, dir, QCMD(command, PRJQUOTA), project, q);
}

static int
read_project(int dir, struct fsxattr *out)
{
	return ioctl(dir, FS_IOC_FSGETXATTR, out);
}

int
quota_limit(int dir, uint32_t project, uint64_t bytes, struct err *err)
{
	struct if_dqblk q = {.dqb_valid = QIF_LIMITS};

	if (bytes) {
		q.dqb_bhardlimit = (bytes + BLOCK_BYTES - 1) / BLOCK_BYTES;
		q.dqb_ihardlimit = bytes / INODE_BYTES + INODES_LEAST;
	}
	if (call(dir, Q_SETQUOTA, project, &q) < 0)
		return err_sys(err, errno, "set a project quota");
	return 0;
}

int
quota_read(int dir, uint32_t project, uint64_t *out_bytes, struct err *err)
{
	struct if_dqblk q = {0};

	if (call(dir, Q_GETQUOTA, project, &q) < 0)
		return err_sys(err, errno, "read a project quota");
	*out_bytes = q.dqb_curspace;
	return 0;
}

/* ---- projects ---- */

/* Nothing counts for this number: an upper of a filesystem with inodes beyond 31 bits may have been
 * given it already. */
static bool
is_free(int dir, uint32_t project)
{
	struct if_dqblk q = {0};

	if (call(dir, Q_GETQUOTA, project, &q) < 0)
		return errno == ENOENT || errno == ESRCH;
	return q.dqb_curspace == 0 && q.dqb_curinodes == 0;
}

int
quota_begin(int dir, uint32_t base, uint32_t *out_project, struct err *err)
{
	struct fsxattr attributes = {0};
	struct stat st;

	if (fstat(dir, &st) < 0 || read_project(dir, &attributes) < 0)
		return err_sys(err, errno, "read the project of a directory");
	const uint32_t most = UINT32_MAX - base - PROJECTS_TRIED;
	uint32_t project = base + (uint32_t)((uint64_t)st.st_ino % most);
	for (int i = 0; i < PROJECTS_TRIED && !is_free(dir, project); i++)
		project++;
	attributes.fsx_projid = project;
	attributes.fsx_xflags |= FS_XFLAG_PROJINHERIT;
	if (ioctl(dir, FS_IOC_FSSETXATTR, &attributes) < 0)
		return err_sys(err, errno, "make a directory a project");
	*out_project = project;
	return 0;
}

int
quota_find(int dir, uint32_t base, uint32_t *out_project, struct err *err)
{
	struct fsxattr attributes = {0};

	if (read_project(dir, &attributes) < 0)
		return err_sys(err, errno, "read the project of a directory");
	const bool ours =
	    attributes.fsx_projid >= base && (attributes.fsx_xflags & FS_XFLAG_PROJINHERIT);
	*out_project = ours ? attributes.fsx_projid : 0;
	return 0;
}

/* ---- the probe ---- */

static void
drop_resource(void)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct sets[2] = {{0}};

	if (syscall(SYS_capget, &head, sets) < 0)
		_exit(2);
	sets[0].effective &= ~(1u << CAP_SYS_RESOURCE);
	if (syscall(SYS_capset, &head, sets) < 0)
		_exit(2);
}

/* In a process of its own, since the right that passes quotas must go. Exits with 0 when the write
 * is refused, 1 when it is not, 2 when that cannot be seen. */
static _Noreturn void
try_to_exceed(int dir)
{
	static const char block[PROBE_BYTES];

	drop_resource();
	const int file = openat(dir, "probe", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (file < 0)
		_exit(2);
	for (int i = 0; i < 4; i++)
		if (write(file, block, sizeof block) != (ssize_t)sizeof block)
			_exit(0);
	_exit(fsync(file) < 0 ? 0 : 1);
}

static int
see_it_refused(int dir, struct err *err)
{
	int status = 0;
	const pid_t pid = fork();

	if (pid == 0)
		try_to_exceed(dir);
	if (pid < 0)
		return err_sys(err, errno, "start a process that tries the quota");
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	return err_set(err, ERR_UNAVAILABLE, "a project quota is not enforced");
}

int
quota_probe(int scratch, uint32_t base, struct err *err)
{
	uint32_t project = 0;
	struct err ignored;

	if (path_remove_tree(scratch, "quota", err) < 0)
		return -1;
	auto_close int dir = path_open_dir(scratch, "quota", 0700, err);
	if (dir < 0)
		return -1;
	int result = quota_begin(dir, base, &project, err);
	if (result == 0)
		result = quota_limit(dir, project, PROBE_BYTES, err);
	if (result == 0) {
		result = see_it_refused(dir, err);
		if (quota_limit(dir, project, 0, &ignored) < 0)
			result = result < 0 ? result : -1;
	}
	if (path_remove_tree(scratch, "quota", &ignored) < 0 && result == 0) {
		*err = ignored;
		return -1;
	}
	return result;
}
