/* Loop devices: the one that holds a file, or a new one for it. Each detaches by itself when its
 * last user goes (a mount, or whoever has it open), so there is nothing to clean up, ever.
 *
 *  1. no file is attached twice, which would be two filesystems writing into one: what an earlier
 *     manager attached is found by device and inode when this one starts, what we attach is noted;
 *  2. where a device that is in use cannot be looked at, nothing is attached at all. */
#ifndef BERTH_LOOPDEV_H
#define BERTH_LOOPDEV_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct loopdev_held {
	dev_t dev;
	ino_t ino;
	int number; /* of /dev/loopN */
};

struct loopdevs {
	struct loopdev_held
	    *at; /* owned: may be out of date, each is looked at before it is used */
	size_t n, cap;
	bool scanned;
};

/* Finds what is attached now. Once, before the first loopdev_open. */
int loopdev_scan(struct loopdevs *l, struct err *err) must_check;
/* An open device that holds the file: while it is open it stays attached.
 *   file    lent: open for reading and writing
 *   attach  whether to attach it where no device holds it
 *   fails   ABSENT where none does and attach is not set */
int loopdev_open(struct loopdevs *l, int file, bool attach, int *out_number,
		 struct err *err) must_check;
void loopdev_free(struct loopdevs *l);

#endif
