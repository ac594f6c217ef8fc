/* Project quotas (ext4 and XFS): each upper is a project of its own, and the filesystem refuses
 * what passes its limit.
 *
 *  1. a project's number follows from the inode of its upper, so that no two uppers that are there
 *     share one: kept uppers, and those of removed sessions, do not count for what runs;
 *  2. files made in the upper inherit it; a session cannot change that (the kernel lets nobody in a
 *     user namespace), which tests/vm tries;
 *  3. whoever has CAP_SYS_RESOURCE writes past it: an overlay's mounter has dropped that. */
#ifndef BERTH_QUOTA_H
#define BERTH_QUOTA_H

#include "base/err.h"

#include <stdint.h>

/* Sets a tiny quota in a directory of its own, and sees a write refused.
 *   fails   UNAVAILABLE, with what is missing */
int quota_probe(int scratch, uint32_t base, struct err *err) must_check;
/* An empty directory becomes the root of a project. */
int quota_begin(int dir, uint32_t base, uint32_t *out_project, struct err *err) must_check;
/* 0: it is none of ours. */
int quota_find(int dir, uint32_t base, uint32_t *out_project, struct err *err) must_check;
/* 0 bytes: no limit. */
int quota_limit(int dir, uint32_t project, uint64_t bytes, struct err *err) must_check;
int quota_read(int dir, uint32_t project, uint64_t *out_bytes, struct err *err) must_check;

#endif
