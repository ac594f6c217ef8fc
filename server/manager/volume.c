#include "volume.h"
#include "base/buf.h"
#include "base/fd.h"
#include "base/path.h"
#include "manager/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

enum {
	BLOCK_BYTES = 512, /* of st_blocks */
	RESERVE_LEAST =
	    4096, /* the kernel's own reserve, in blocks, where 2 % are more than that */
	MAGIC_AT = 1024 + 56,
	MKFS_PATH = 15, /* its place among the arguments */
};

/* ---- making one ---- */

/* The journal is small: it is taken from the store as it is used, in every kept upper. Tables of
 * inodes are left as holes. An error makes it read-only, and never stops the node. */
const char *const *
volume_mkfs(const char *path)
{
	static const char *argv[] = {NULL,
				     "-q",
				     "-F",
				     "-b",
				     "4096",
				     "-m",
				     "0",
				     "-i",
				     "16384",
				     "-J",
				     "size=16",
				     "-E",
				     "lazy_itable_init=1,lazy_journal_init=1,nodiscard",
				     "-e",
				     "remount-ro",
				     NULL,
				     NULL};

	argv[0] =
	    access("/usr/sbin/mkfs.ext4", X_OK) == 0 ? "/usr/sbin/mkfs.ext4" : "/sbin/mkfs.ext4";
	argv[MKFS_PATH] = path;
	return argv;
}

int
volume_create(int dir, const char *name, uint64_t bytes, struct err *err)
{
	uint64_t size = VOLUME_BYTES;

	while (size < VOLUME_MOST_BYTES && size - size / 16 < bytes)
		size *= 2;
	auto_close int file = path_create(dir, name, 0600, err);
	if (file < 0)
		return -1;
	if (ftruncate(file, (off_t)size) == 0)
		return fd_steal(&file);
	const int why = errno;
	unlinkat(dir, name, 0);
	return err_sys(err, why, "make a disk image of %llu bytes", (unsigned long long)size);
}

bool
volume_is_whole(int dir, const char *name)
{
	uint8_t magic[2];
	struct err ignored;

	auto_close int file = path_open(dir, name, O_RDONLY, &ignored);
	return file >= 0 && fd_pread_all(file, magic, sizeof magic, MAGIC_AT, &ignored) == 0 &&
	       magic[0] == 0x53 && magic[1] == 0xef;
}

int
volume_make(int dir, const char *name, uint64_t bytes, struct err *err)
{
	char path[64], made[64];

	/* Under another name: who dies with mkfs under way leaves nothing that passes for an image. */
	if ((size_t)snprintf(made, sizeof made, "%s.new", name) >= sizeof made)
		return err_set(err, ERR_INTERNAL, "the name of a disk image is too long");
	(void)unlinkat(dir, made, 0);
	auto_close int file = volume_create(dir, made, bytes, err);
	if (file < 0)
		return -1;
	/* by our fd: the image has no name that others must be kept from */
	snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)getpid(), file);
	if (spawn_run(volume_mkfs(path), err) == 0) {
		if (renameat(dir, made, dir, name) == 0)
			return 0;
		err_sys(err, errno, "name it");
	}
	unlinkat(dir, made, 0);
	err_add(err, "format a disk image");
	return err_hint(err, "install e2fsprogs on the server");
}

/* ---- mounting ---- */

static int
set_up(int fs, int number, bool readonly, struct err *err)
{
	char source[32];

	snprintf(source, sizeof source, "/dev/loop%d", number);
	if (fsconfig(fs, FSCONFIG_SET_STRING, "source", source, 0) < 0 ||
	    fsconfig(fs, FSCONFIG_SET_FLAG, "noinit_itable", NULL, 0) < 0 ||
	    fsconfig(fs, FSCONFIG_SET_FLAG, "discard", NULL, 0) < 0 ||
	    (readonly && fsconfig(fs, FSCONFIG_SET_FLAG, "ro", NULL, 0) < 0))
		return err_sys(err, errno, "set up the mount of a disk image");
	if (fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0)
		return 0;
	const int why = errno;
	err_sys(err, why, "mount the disk image on %s", source);
	errno = why;
	return err_hint(err, "its files are kept; on the server: e2fsck -f that image");
}

/* One that is mounted and has had an error is read-only, and is shared as that alone. */
static int
open_fs(int number, struct err *err)
{
	for (int readonly = 0; readonly < 2; readonly++) {
		auto_close int fs = fsopen("ext4", FSOPEN_CLOEXEC);
		if (fs < 0)
			return err_sys(err, errno, "use ext4");
		if (set_up(fs, number, readonly, err) == 0)
			return fd_steal(&fs);
		if (errno != EBUSY)
			break;
	}
	return -1;
}

static int
shut_root(int root, struct err *err)
{
	struct stat st;

	if (fstatat(root, "", &st, AT_EMPTY_PATH) < 0)
		return err_sys(err, errno, "look at the root of a disk image");
	if ((st.st_mode & 07777) != 0700 && fchmodat(root, ".", 0700, 0) < 0)
		return err_sys(err, errno, "shut the root of a disk image");
	return 0;
}

int
volume_mount(struct loopdevs *l, int file, bool attach, int *out_number, struct err *err)
{
	const unsigned attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOATIME;

	auto_close int device = loopdev_open(l, file, attach, out_number, err);
	auto_close int fs = device < 0 ? -1 : open_fs(*out_number, err);
	if (fs < 0)
		return -1;
	auto_close int root = fsmount(fs, FSMOUNT_CLOEXEC, attributes);
	if (root < 0)
		return err_sys(err, errno, "mount a disk image");
	return shut_root(root, err) < 0 ? -1 : fd_steal(&root);
}

/* ---- its limit ---- */

int
volume_limit(int number, int root, uint64_t bytes, uint64_t *out_bytes, struct err *err)
{
	struct statfs fs;
	char path[64], text[32];

	if (fstatfs(root, &fs) < 0)
		return err_sys(err, errno, "look at a disk image");
	const uint64_t block = (uint64_t)fs.f_bsize, total = (uint64_t)fs.f_blocks;
	const uint64_t least = total / 50 < RESERVE_LEAST ? total / 50 : RESERVE_LEAST;
	const uint64_t wanted = bytes ? bytes / block : total;
	const uint64_t given = wanted < total - least ? wanted : total - least;
	snprintf(path, sizeof path, "/sys/fs/ext4/loop%d/reserved_clusters", number);
	const int n = snprintf(text, sizeof text, "%llu\n", (unsigned long long)(total - given));
	auto_close int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return err_sys(err, errno, "open %s", path);
	if (fd_write_all(fd, text, (size_t)n, err) < 0)
		return err_add(err, "set %s", path);
	*out_bytes = given * block;
	return 0;
}

int
volume_read(int root, int file, struct volume_use *out, struct err *err)
{
	struct statfs fs;
	struct stat st;

	if (fstatfs(root, &fs) < 0 || fstat(file, &st) < 0)
		return err_sys(err, errno, "look at a disk image");
	const uint64_t taken = (uint64_t)st.st_blocks * BLOCK_BYTES;
	out->used = (uint64_t)(fs.f_blocks - fs.f_bfree) * (uint64_t)fs.f_bsize;
	out->owed = out->used > taken ? out->used - taken : 0;
	return 0;
}
