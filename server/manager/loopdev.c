#include "loopdev.h"
#include "base/fd.h"
#include "base/num.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TRIES = 16 }; /* others take free devices too, between the question and the answer */

static int
open_number(int number)
{
	char path[32];

	snprintf(path, sizeof path, "/dev/loop%d", number);
	return open(path, O_RDWR | O_CLOEXEC);
}

static void
note(struct loopdevs *l, const struct loopdev_held *h)
{
	for (size_t i = 0; i < l->n; i++)
		if (l->at[i].number == h->number) {
			l->at[i] = *h;
			return;
		}
	l->at = xgrow(l->at, l->n, &l->cap, sizeof *l->at);
	l->at[l->n++] = *h;
}

/* ---- what is there ---- */

/* 0 it holds nothing, or is not there; -1 it holds something and does not say what. */
static int
look_at(struct loopdevs *l, int number, struct err *err)
{
	struct loop_info64 info;
	char path[48];

	snprintf(path, sizeof path, "/sys/block/loop%d/loop", number);
	if (access(path, F_OK) < 0)
		return 0;
	auto_close int fd = open_number(number);
	if (fd >= 0 && ioctl(fd, LOOP_GET_STATUS64, &info) == 0) {
		note(l, &(struct loopdev_held){info.lo_device, info.lo_inode, number});
		return 0;
	}
	if (fd >= 0 && errno == ENXIO)
		return 0; /* it has just let go */
	return err_sys(err, errno, "look at /dev/loop%d, which is in use", number);
}

int
loopdev_scan(struct loopdevs *l, struct err *err)
{
	DIR *list = opendir("/sys/block");
	const struct dirent *e;
	struct err ignored;
	uint64_t number;
	int result = 0;

	if (!list)
		return err_sys(err, errno, "list /sys/block");
	while (result == 0 && (e = readdir(list)) != NULL)
		if (strncmp(e->d_name, "loop", 4) == 0 &&
		    num_parse(str_of(e->d_name + 4), 0, 1 << 20, &number, &ignored) == 0)
			result = look_at(l, (int)number, err);
	closedir(list);
	l->scanned = result == 0;
	return result;
}

static bool
holds(int fd, const struct stat *file)
{
	struct loop_info64 info;

	return ioctl(fd, LOOP_GET_STATUS64, &info) == 0 && info.lo_device == file->st_dev &&
	       info.lo_inode == file->st_ino;
}

/* Open, hence attached for as long as the caller wants; -1: none holds it (any more). */
static int
find(struct loopdevs *l, const struct stat *file, int *out_number)
{
	for (size_t i = 0; i < l->n; i++) {
		if (l->at[i].dev != file->st_dev || l->at[i].ino != file->st_ino)
			continue;
		const int number = l->at[i].number, fd = open_number(number);
		if (fd >= 0 && holds(fd, file)) {
			*out_number = number;
			return fd;
		}
		if (fd >= 0)
			close(fd);
		l->at[i--] = l->at[--l->n];
	}
	return -1;
}

/* ---- attaching ---- */

/* Past the page cache where the filesystem can do that: else all is cached twice. */
static int
configure(int fd, int file)
{
	struct loop_config c = {.fd = (unsigned)file,
				.info = {.lo_flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO}};

	snprintf((char *)c.info.lo_file_name, sizeof c.info.lo_file_name, "berth");
	if (ioctl(fd, LOOP_CONFIGURE, &c) == 0)
		return 0;
	if (errno != EINVAL)
		return -1;
	c.info.lo_flags = LO_FLAGS_AUTOCLEAR;
	return ioctl(fd, LOOP_CONFIGURE, &c);
}

static int
attach_file(int file, int *out_number, struct err *err)
{
	auto_close int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);

	if (control < 0)
		return err_sys(err, errno, "open /dev/loop-control");
	for (int i = 0; i < TRIES; i++) {
		const int number = ioctl(control, LOOP_CTL_GET_FREE);
		if (number < 0)
			return err_sys(err, errno, "get a loop device");
		auto_close int fd = open_number(number);
		if (fd < 0)
			return err_sys(err, errno, "open /dev/loop%d", number);
		if (configure(fd, file) == 0) {
			*out_number = number;
			return fd_steal(&fd);
		}
		if (errno != EBUSY)
			return err_sys(err, errno, "attach /dev/loop%d", number);
	}
	return err_set(err, ERR_AGAIN, "others take every loop device first");
}

int
loopdev_open(struct loopdevs *l, int file, bool attach, int *out_number, struct err *err)
{
	struct stat st;
	int fd;

	if (!l->scanned)
		return err_set(err, ERR_UNAVAILABLE, "it is not known which loop devices are used");
	if (fstat(file, &st) < 0)
		return err_sys(err, errno, "look at a disk image");
	if ((fd = find(l, &st, out_number)) >= 0)
		return fd;
	if (!attach)
		return err_set(err, ERR_ABSENT, "no loop device holds the disk image");
	if ((fd = attach_file(file, out_number, err)) < 0)
		return -1;
	note(l, &(struct loopdev_held){st.st_dev, st.st_ino, *out_number});
	return fd;
}

void
loopdev_free(struct loopdevs *l)
{
	free(l->at);
	*l = (struct loopdevs){0};
}
