/* One entry of a layer, in the session's own words: no OCI name, no overlay mark, no tar header.
 * walk makes them, tar writes and reads them, apply turns them into files, idx lists them. */
#ifndef BERTH_ENTRY_H
#define BERTH_ENTRY_H

#include "attrs.h"

#include <stdint.h>

enum entry_type {
	ENTRY_FILE,
	ENTRY_DIR,
	ENTRY_SYMLINK,
	ENTRY_FIFO,
	ENTRY_LINK,     /* a further name of a file of the same layer: `link` is its first */
	ENTRY_WHITEOUT, /* what lower layers have of this name is gone */
	ENTRY_OPAQUE,   /* of the directory `path`: what lower layers have in it is gone */
	ENTRY_TYPES
};

struct extent {
	uint64_t at, n;
};

struct entry {
	enum entry_type type;
	struct str path; /* relative, any bytes but NUL, no "." or ".." in it; empty: the root */
	struct str link; /* of a symlink: as it is; of a link: a path */
	uint32_t mode;   /* 07777 */
	uint32_t uid, gid;
	uint64_t size;
	int64_t mtime_s;
	uint32_t mtime_ns;
	const struct attrs *attrs;    /* lent; may be NULL */
	const struct extent *extents; /* lent; of a sparse file: where it has data, in order */
	size_t n_extents;
	bool sparse;
};

enum { ENTRY_PATH_MAX_BYTES = 512 * 1024 }; /* as much as libarchive takes in one header, halved */

#endif
