/* Bytes on their way into a tar reader: from a file that somebody else made, and out of whatever
 * compresses them. Each stage is a struct tar_source over the one before. */
#ifndef BERTH_SOURCE_H
#define BERTH_SOURCE_H

#include "base/digest.h"
#include "tar.h"

/* ---- a file, read from its beginning ---- */
struct source_file {
	int fd; /* lent */
	uint64_t at;
	struct hasher *hasher; /* owned: of the bytes as they are */
	char *room;            /* owned */
};

#define auto_source_file __attribute__((cleanup(source_file_done))) struct source_file
void source_file_init(struct source_file *f, int fd);
void source_file_done(struct source_file *f);
struct tar_source source_file_bytes(struct source_file *f);

/* ---- plain bytes of gzip, bzip2, xz, zstd, or of none of these ---- */
struct source_plain;

/* from: lent, but for its pieces. NULL: failed. */
struct source_plain *source_plain_new(const struct tar_source *from, struct err *err) must_check;
void source_plain_free(struct source_plain *p);
AUTO_OF(source_plain)
struct tar_source source_plain_bytes(struct source_plain *p);
/* What has come out of it so far: an OCI diff_id at the end. */
struct digest source_plain_sum(const struct source_plain *p, uint64_t *out_bytes);

#endif
