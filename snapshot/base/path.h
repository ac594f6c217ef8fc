/* Paths are a directory fd and a name. Whatever name comes from a workspace, an archive or a peer
 * goes through path_open, which cannot leave the directory. */
#ifndef BERTH_PATH_H
#define BERTH_PATH_H

#include "buf.h"
#include "err.h"

#include <stdbool.h>
#include <sys/types.h>

/* Opens `name` beneath `dir`: no "..", no absolute name, no symbolic link anywhere on the way, no
 * magic link (openat2(2): RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, RESOLVE_NO_MAGICLINKS). Where
 * openat2 is missing, a walk by component with O_NOFOLLOW does the same.
 *   returns a close-on-exec fd, or -1; errno is kept for callers that ask for ENOENT */
int path_open(int dir, const char *name, int flags, struct err *err) must_check;
/* As path_open with O_CREAT|O_EXCL|O_WRONLY. */
int path_create(int dir, const char *name, mode_t mode, struct err *err) must_check;
/* Opens a directory beneath, making it (one level, mode) when it is absent. */
int path_open_dir(int dir, const char *name, mode_t mode, struct err *err) must_check;
/* Asks the file system to put each directory in this one into a region of its own, so that making files in
 * one does not have to pass over what was deleted in another (ext4: ioctl_iflags(2), FS_TOPDIR_FL; measured:
 * 16 us a file instead of 75 to 1,000). Nothing where it cannot. */
void path_spread(int dir);
/* Opens a directory that the operator named, with its links; makes missing ones on the way. */
int path_open_top(const char *path, mode_t mode, struct err *err) must_check;
/* The whole of a small file; fails when it is larger than out->max. */
int path_read(int dir, const char *name, struct buf *out, struct err *err) must_check;
/* Replaces a file so that after a power cut it is the old or the new one, whole: temp file, fsync,
 * rename, fsync of the directory. */
int path_replace(int dir, const char *name, mode_t mode, struct str bytes,
		 struct err *err) must_check;
int path_sync_dir(int dir, struct err *err) must_check;
/* Removes a name and all below it, never following a link or crossing a mount. Absent is success.
 */
int path_remove_tree(int dir, const char *name, struct err *err) must_check;
bool path_exists(int dir, const char *name);
/* Whether the directory `below` is `top` or lies beneath it: 1 or 0. Each may be O_PATH. */
int path_holds(int top, int below, struct err *err) must_check;

#endif
