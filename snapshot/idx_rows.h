/* The rows of a layer's index, one by one and in the order of their keys: what views of snapshots
 * are made of. The file comes from a disk, and may be anything: each row is judged before it is
 * handed out.
 *
 * A key is a path; that of an opaque mark is the directory's with a slash behind. Keys are ordered
 * as bytes, so a directory stands before all below it, though not always next to it ("a", "a-b",
 * "a/x"). */
#ifndef BERTH_IDX_ROWS_H
#define BERTH_IDX_ROWS_H

#include "entry.h"
#include "idx.h"

struct idx_row { /* texts: lent */
	enum entry_type type;
	struct str key, path, link;
	uint64_t size, data_at; /* data_at: of files alone */
	uint32_t mode, uid, gid;
	int64_t mtime_ns;
	bool sparse;
};

struct idx_rows;

/* fd: lent. of: the archive that it must be the index of; NULL: any. */
struct idx_rows *idx_rows_open(int fd, const struct digest *of, struct err *err) must_check;
void idx_rows_free(struct idx_rows *r);
AUTO_OF(idx_rows)
/* 1 found, lent until the next find; 0, -1. */
int idx_rows_find(struct idx_rows *r, struct str key, struct idx_row *out,
		  struct err *err) must_check;

/* A range of keys in order. Ends before its rows do. */
struct idx_scan;

struct idx_scan *idx_scan_new(struct idx_rows *r, struct err *err) must_check;
void idx_scan_free(struct idx_scan *s);
AUTO_OF(idx_scan)
/* Goes to the keys above `after` and below `before`; at NULL: without that bound. Copied. */
int idx_scan_range(struct idx_scan *s, struct str after, struct str before,
		   struct err *err) must_check;
/* Goes on from this key, which may be one that there is not, within the same range. */
int idx_scan_skip(struct idx_scan *s, struct str to, struct err *err) must_check;
/* 1 a row, lent until the next call; 0 the end, -1. */
int idx_scan_next(struct idx_scan *s, struct idx_row *out, struct err *err) must_check;

#endif
