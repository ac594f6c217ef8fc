/* Blobs by digest: the only door to archive storage.
 *
 *   STORE/oci-layout            what this directory is, for podman and skopeo
 *   STORE/lock                  nothing but a lock (blob_hold)
 *   STORE/blobs/sha256/<hex>    layers, configs, manifests
 *   STORE/blobs/.tmp.<hex>      being written; locked by who writes it
 *   STORE/idx/<hex>.idx         entries of a layer (idx.h)
 *   STORE/refs/                 mutable facts (oci.h)
 *
 * Order of a commit: bytes → fsync → rename → fsync of the directory. What is at its name is whole.
 */
#ifndef BERTH_BLOB_H
#define BERTH_BLOB_H

#include "base/digest.h"

#include <stdbool.h>

enum { BLOB_SMALL_MAX_BYTES = 4 << 20 }; /* of a manifest or config */

struct blob_writer {
	int blobs; /* owned; STORE/blobs */
	int fd;    /* owned; write and read here */
	char tmp[32];
};

#define BLOB_WRITER_NONE ((struct blob_writer){.blobs = -1, .fd = -1})
#define auto_blob        __attribute__((cleanup(blob_abort))) struct blob_writer

/* The lock of a store, held until the fd is closed: together with others by who looks for a blob
 * and keeps what it finds, alone by who removes one. So nobody keeps what is being removed. */
int blob_hold(int store, bool alone, struct err *err) must_check;
/* Makes the store's directories where they are missing. */
int blob_store_init(int store, struct err *err) must_check;
int blob_begin(int store, struct blob_writer *w, struct err *err) must_check;
/* To blobs/sha256/<digest>. One of the same name and size that is there already is kept, and
 * touched: it is as new as this one would have been (collect.h). */
int blob_commit(struct blob_writer *w, int store, const struct digest *d,
		struct err *err) must_check;
/* To dir/name, in place of what is there. */
int blob_commit_as(struct blob_writer *w, int dir, const char *name, struct err *err) must_check;
/* Removes the temp file; nothing when it was committed. */
void blob_abort(struct blob_writer *w);
/* For an error of NO_SPACE: says how much was written and how much there is. Returns -1. */
int blob_say_space(const struct blob_writer *w, struct err *err);

int blob_open(int store, const struct digest *d, uint64_t *out_bytes, struct err *err) must_check;
/* Small ones, whole. read checks the digest. */
int blob_put(int store, struct str bytes, struct digest *out, struct err *err) must_check;
int blob_read(int store, const struct digest *d, struct buf *out, struct err *err) must_check;

/* Temp names, for all that write beside their goal: ".tmp." and 16 hex digits. */
void blob_tmp_name(char out[32]);
/* Holds a lock on a temp file or directory while its fd is open, so that a sweep lets it be. */
int blob_tmp_lock(int fd, struct err *err) must_check;
/* Removes what stands in `dir` under a temp name, is not locked, and is older than a minute. */
int blob_tmp_sweep(int dir, struct err *err) must_check;

#endif
