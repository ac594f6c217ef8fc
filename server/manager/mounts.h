/* Mounts that nobody sees yet: user namespaces, id-mapped copies of directories, and the overlay of
 * a workspace, each as an fd. A detached mount goes when its last fd does. */
#ifndef BERTH_MOUNTS_H
#define BERTH_MOUNTS_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A user namespace in which ids 0 to count - 1 are base to base + count - 1 outside. */
int mounts_userns(unsigned base, unsigned count, struct err *err) must_check;
/* A detached copy of the mount at a directory.
 *   dir         lent; its mount must be of our mount namespace
 *   attributes  MOUNT_ATTR_*
 *   userns      ids on disk are ids inside of it; -1: as they are */
int mounts_clone(int dir, uint64_t attributes, int userns, struct err *err) must_check;
/* The same attributes for a mount that is detached already: a duplicate of its fd. */
int mounts_set(int mount, uint64_t attributes, int userns, struct err *err) must_check;
/* The overlay, detached. For a process of its own that then ends: it takes over this one's mount
 * namespace, working directory, identity and capabilities.
 *   lowers      lent: clones, the topmost first; n of them, at least 1
 *   in_fs       which of them are the directory fs/ of their mount
 *   upper       lent: a clone of the directory that holds fs/ and work/; -1: none, it is read only (n is at
 *               least 2)
 *   root        the uid and gid outside of the session's root */
int mounts_overlay(const int *lowers, const bool *in_fs, size_t n, int upper, unsigned root,
		   struct err *err) must_check;

#endif
