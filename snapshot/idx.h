/* The entries of one layer as an SQLite file, so that a file of a large archive is found and read
 * without the rest: `data_at` is where its bytes begin in the tar stream, and the archive's seek
 * table leads from there to a frame.
 *
 *   entry(path BLOB primary key, type, size, mode, uid, gid, mtime_ns, link BLOB, data_at, sparse)
 *     type: f file, d directory, l symbolic link, p fifo, h hard link, w whiteout; O opaque (its
 *     path is the directory's with a trailing slash: the directory has a row of its own)
 *   layer(digest, diff_id, bytes, raw_bytes, entries)     one row
 *   PRAGMA user_version = 1
 *
 * SQLite is given file descriptors through a VFS of its own (idx_vfs.c): it opens no path, and each
 * page of 4,096 bytes ends in a checksum, 8 bytes that stock SQLite lets be. */
#ifndef BERTH_IDX_H
#define BERTH_IDX_H

#include "entry.h"
#include "frames.h"

struct idx_writer;

/* fd: lent, empty, open for reading and writing. NULL: failed. */
struct idx_writer *idx_writer_new(int fd, struct err *err) must_check;
void idx_writer_free(struct idx_writer *w);
AUTO_OF(idx_writer)
int idx_put(struct idx_writer *w, const struct entry *e, uint64_t data_at,
	    struct err *err) must_check;
/* All is in the file afterwards, not yet synced. */
int idx_finish(struct idx_writer *w, const struct frames_sum *sum, struct err *err) must_check;

struct idx_reader;

struct idx_reader *idx_reader_new(int fd, struct err *err) must_check;
void idx_reader_free(struct idx_reader *r);
AUTO_OF(idx_reader)
int idx_layer(struct idx_reader *r, struct frames_sum *out, uint64_t *out_entries,
	      struct err *err) must_check;
/* Whether it has exactly this entry: 1 or 0, -1 when it cannot be read. */
int idx_has(struct idx_reader *r, const struct entry *e, struct err *err) must_check;
/* Where a file's data begins. 1 found, 0 no such file, -1. */
int idx_find(struct idx_reader *r, struct str path, uint64_t *out_data_at, uint64_t *out_size,
	     struct err *err) must_check;

/* ---- for idx_rows.c, the other reader ---- */
struct sqlite3;
int idx_open_db(int fd, int flags, struct sqlite3 **out, struct err *err) must_check;
/* What SQLite says, as an error; -1. */
int idx_fail(struct sqlite3 *db, const char *doing, struct err *err);

/* Reads all of its pages: CORRUPT when a bit of it is not as it was written. */
int idx_check(int fd, struct err *err) must_check;

enum { IDX_PAGE_BYTES = 4096, IDX_RESERVED_BYTES = 8 };
/* Registers the VFS, once; its name. */
const char *idx_vfs_name(void);
/* What its last failure on this thread was, which SQLite does not pass on. */
int idx_vfs_errno(void);

#endif
