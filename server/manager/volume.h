/* A volume: an ext4 filesystem with a journal in a sparse file, of which a session gets as much as
 * its disk limit says. Only the kernel ever writes its blocks: a session sees files, never the
 * device.
 *
 *  1. each use mounts it anew, attached nowhere: the mounts share one filesystem, which is there
 *     until its last user is gone, an overlay or an fd, and leaves nothing to be unmounted;
 *  2. it is made far larger than it may be used. What is beyond the limit is kept back by the
 *     filesystem's own reserve, which moves both ways while it is mounted, without a right that
 *     containers do not have, as growing it would;
 *  3. what it has promised and not yet written into its file is not in the store's free space:
 *     volume_read tells it, or the watcher would look away too long. */
#ifndef BERTH_VOLUME_H
#define BERTH_VOLUME_H

#include "manager/loopdev.h"

#include <stdint.h>

#define VOLUME_BYTES      (16ull << 30) /* what a pooled one could hold; costs 4 MiB on disk */
#define VOLUME_MOST_BYTES (8ull << 40)
#define VOLUME_NAME       "image" /* within upper.N */

/* Makes `name` within dir, with room for so many bytes. Waits for mkfs.ext4: about 15 ms. */
int volume_make(int dir, const char *name, uint64_t bytes, struct err *err) must_check;
/* The arguments that format an empty file of the right size, at this path. NULL-terminated; lent.
 */
const char *const *volume_mkfs(const char *path);
/* An empty, sparse file for a volume with room for so many bytes: owned fd. */
int volume_create(int dir, const char *name, uint64_t bytes, struct err *err) must_check;
/* Whether mkfs.ext4 has done all of its work: it writes the superblock last. */
bool volume_is_whole(int dir, const char *name);
/* A mount of its own of the volume in this file, as an fd of its root.
 *   attach   whether it may be that nobody has it mounted yet: not while a session lives in it */
int volume_mount(struct loopdevs *l, int file, bool attach, int *out_number,
		 struct err *err) must_check;
/* From now on it holds so many bytes, 0: all it can. */
int volume_limit(int number, int root, uint64_t bytes, uint64_t *out_bytes,
		 struct err *err) must_check;
struct volume_use {
	uint64_t used; /* by its files */
	uint64_t owed; /* of that, not yet taken from the store */
};
int volume_read(int root, int file, struct volume_use *out, struct err *err) must_check;

#endif
