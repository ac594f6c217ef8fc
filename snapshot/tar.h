/* Entry ⇄ tar.
 *
 * Writing is our own code: a pax archive (POSIX.1-2001) whose bytes follow from the entries alone,
 * whatever libarchive is installed, and in which we know where each file's data begins. Reading is
 * libarchive's: what is read may be hostile, and its parser has been attacked for twenty years.
 *
 * How an entry is written (tests/golden holds an example for ever):
 *  1. ustar header, numbers in octal; a pax header before it with what does not fit or is finer:
 *     path, linkpath, size, uid, gid, mtime (9 digits), SCHILY.xattr.NAME, GNU.sparse.* (1.0);
 *     an attribute's name with '=' in it as LIBARCHIVE.xattr (percent and base64);
 *  2. hdrcharset=BINARY only where a path in the pax header is not UTF-8;
 *  3. no user and group names, no device, inode, access or change time;
 *  4. two zero blocks end the archive, without further padding. */
#ifndef BERTH_TAR_H
#define BERTH_TAR_H

#include "entry.h"
#include "frames.h"

/* ---- writing ---- */
struct tar_writer {
	struct frames_writer *frames; /* lent */
	uint64_t at;                  /* bytes of the stream so far */
	uint64_t left;                /* bytes of data that the current entry still wants */
	struct buf name, link, pax, map;
};

void tar_writer_init(struct tar_writer *t, struct frames_writer *frames);
void tar_writer_done(struct tar_writer *t);
/* Headers. A file's data follows: by tar_put_file, or none at all when it is empty.
 *   out_data_at   where in the stream the data (of a sparse file: its first extent) will be */
int tar_put(struct tar_writer *t, const struct entry *e, uint64_t *out_data_at,
	    struct err *err) must_check;
/* The data of the entry just put, read from fd; zeros where the file has become shorter.
 *   step          called about every MiB, may fail; may be NULL
 *   out_torn      whether it was shorter */
int tar_put_file(struct tar_writer *t, const struct entry *e, int fd,
		 int (*step)(void *ctx, uint64_t bytes, struct err *err), void *ctx, bool *out_torn,
		 struct err *err) must_check;
int tar_end(struct tar_writer *t, struct err *err) must_check;

/* ---- reading ---- */
struct tar_reader;

/* Where a tar comes from: its next bytes, lent until the next call. 1 bytes, 0 the end, -1. */
struct tar_source {
	int (*next)(void *ctx, struct str *out, struct err *err);
	void *ctx;
};

/* An archive that was not written here, such as an image's layer. What no workspace can hold and
 * none would miss is left out: device nodes, which are counted, and attributes that do not travel.
 *   source   lent, but for its pieces */
struct tar_reader *tar_reader_foreign(const struct tar_source *source, struct err *err) must_check;
/* Entries left out so far. */
uint64_t tar_dropped(const struct tar_reader *t);

/* frames: lent. NULL: failed. */
struct tar_reader *tar_reader_new(struct frames_reader *frames, struct err *err) must_check;
void tar_reader_free(struct tar_reader *t);
AUTO_OF(tar_reader)
/* The next entry, all of it judged, lent until the next call. 1 an entry, 0 the end (the stream has
 * been read to its end then), -1. */
int tar_next(struct tar_reader *t, struct entry *out, struct err *err) must_check;
/* Where in the stream the current entry's data begins; before it is read. */
uint64_t tar_data_at(const struct tar_reader *t);
/* The current file's next piece. 1 a piece, 0 no more (the rest up to its size is a hole), -1. */
int tar_read(struct tar_reader *t, struct str *out, uint64_t *out_at, struct err *err) must_check;

#endif
