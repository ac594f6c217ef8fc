/* The node's directories that sessions may be shown: `new --mount SRC:DST[:ro]`, out of what the
 * option `mounts` allows. Text into rows, and a row into an open directory.
 *
 * Invariants
 *  1. a source is an allowed directory or lies beneath one; below that no link is followed at all,
 *     so it is what its name says;
 *  2. it is not the server's own state or sockets, and holds neither;
 *  3. a destination is a plain absolute path, none lies beneath another, and none covers what a
 *     session's walls stand on. */
#ifndef BERTH_MOUNT_LIST_H
#define BERTH_MOUNT_LIST_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

enum {
	MOUNTS_MAX = 8, /* of one session */
	MOUNT_SOURCE_BYTES = 512,
	MOUNT_TARGET_BYTES = 256,
	MOUNT_TEXT_BYTES = MOUNT_SOURCE_BYTES + MOUNT_TARGET_BYTES + 8,
	MOUNTS_ALLOWED_MAX = 32,
};

struct mount_row {
	char source[MOUNT_SOURCE_BYTES], target[MOUNT_TARGET_BYTES];
	bool read_only;
};

struct mounts_allowed {
	struct {
		char path[MOUNT_SOURCE_BYTES];
		bool read_only;
	} at[MOUNTS_ALLOWED_MAX];
	size_t n;
};

/* "SRC:DST" or "SRC:DST:ro". image_host: the node's /usr is bound over the session's. */
int mount_parse(struct str text, bool image_host, struct mount_row *out,
		struct err *err) must_check;
void mount_format(const struct mount_row *row, char out[MOUNT_TEXT_BYTES]);
/* USAGE when its destination is, holds or lies beneath one of these. */
int mount_check_apart(const struct mount_row *rows, size_t n, const struct mount_row *row,
		      struct err *err) must_check;

/* The option's value; CONFIG says what is wrong with it. */
int mounts_allowed_parse(struct str text, struct mounts_allowed *out, struct err *err) must_check;
/* Logs what an operator should know of them: a setuid file that a session makes in one counts on
 * the node, unless it lies on a filesystem that the node mounts nosuid. */
void mounts_allowed_warn(const struct mounts_allowed *allowed);
/* The directory of a source.
 *   state, run     lent: the server's own directories
 *   out_read_only  what was asked for, or what the list says
 *   returns        an O_PATH fd
 *   fails          DENIED when the list has it not, UNAVAILABLE when it is not there */
int mount_open(const struct mounts_allowed *allowed, const struct mount_row *row, int state,
	       int run, bool *out_read_only, struct err *err) must_check;
/* For `show`: as mount_open would decide. */
bool mount_is_read_only(const struct mounts_allowed *allowed, const struct mount_row *row);

#endif
