/* Invariants
 *  1. no decompressor runs as a program of its own, and only those named here run at all;
 *  2. at the end both the plain bytes and the file they came from have been read to their ends. */
#include "source.h"
#include "layer.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

enum { ROOM_BYTES = 256 << 10 };

void
source_file_init(struct source_file *f, int fd)
{
	*f = (struct source_file){.fd = fd, .hasher = hasher_new(), .room = xnew(1, ROOM_BYTES)};
}

void
source_file_done(struct source_file *f)
{
	hasher_free(f->hasher);
	free(f->room);
}

static int
next_of_file(void *ctx, struct str *out, struct err *err)
{
	struct source_file *f = ctx;
	const ssize_t n = pread(f->fd, f->room, ROOM_BYTES, (off_t)f->at);

	if (n < 0)
		return err_sys(err, errno, "read the archive");
	f->at += (uint64_t)n;
	hasher_add(f->hasher, f->room, (size_t)n);
	*out = (struct str){f->room, (size_t)n};
	return n > 0;
}

struct tar_source
source_file_bytes(struct source_file *f)
{
	return (struct tar_source){next_of_file, f};
}

/* ---- plain ---- */

struct source_plain {
	struct tar_source from;
	struct archive *archive; /* owned */
	struct hasher *hasher;   /* owned */
	uint64_t bytes;
	struct err why; /* of `from`, when it fails in a callback */
	bool from_failed, ended;
};

static la_ssize_t
read_from(struct archive *a, void *ctx, const void **out)
{
	struct source_plain *p = ctx;
	struct str bytes = {0};

	const int got = p->from.next(p->from.ctx, &bytes, &p->why);
	if (got < 0) {
		p->from_failed = true;
		archive_set_error(a, EIO, "the source");
		return -1;
	}
	*out = bytes.at;
	return got ? (la_ssize_t)bytes.len : 0;
}

static int
fail(struct source_plain *p, struct err *err)
{
	if (p->from_failed) {
		*err = p->why;
		return -1;
	}
	const char *text = archive_error_string(p->archive);
	return err_set(err, ERR_CORRUPT, "decompress: %s", text ? text : "not an archive");
}

static bool
support(struct archive *a)
{
	return archive_read_support_filter_gzip(a) == ARCHIVE_OK &&
	       archive_read_support_filter_bzip2(a) == ARCHIVE_OK &&
	       archive_read_support_filter_xz(a) == ARCHIVE_OK &&
	       archive_read_support_filter_zstd(a) == ARCHIVE_OK &&
	       archive_read_support_format_raw(a) == ARCHIVE_OK;
}

struct source_plain *
source_plain_new(const struct tar_source *from, struct err *err)
{
	auto_of(source_plain) struct source_plain *p = xnew(1, sizeof *p);
	struct archive_entry *only;

	p->from = *from;
	p->hasher = hasher_new();
	p->archive = archive_read_new();
	if (!p->archive || !support(p->archive)) {
		err_set(err, ERR_UNAVAILABLE, "libarchive lacks gzip, bzip2, xz or zstd");
		return NULL;
	}
	if (archive_read_open(p->archive, p, NULL, read_from, NULL) != ARCHIVE_OK ||
	    archive_read_next_header(p->archive, &only) != ARCHIVE_OK) {
		fail(p, err);
		return NULL;
	}
	return steal(&p);
}

void
source_plain_free(struct source_plain *p)
{
	if (!p)
		return;
	archive_read_free(p->archive);
	hasher_free(p->hasher);
	free(p);
}

static int
next_plain(void *ctx, struct str *out, struct err *err)
{
	struct source_plain *p = ctx;
	const void *bytes;
	size_t n = 0;
	la_int64_t at;
	int got = ARCHIVE_OK;

	while (!p->ended && got == ARCHIVE_OK && n == 0)
		got = archive_read_data_block(p->archive, &bytes, &n, &at);
	if (got != ARCHIVE_OK && got != ARCHIVE_EOF)
		return fail(p, err);
	if (p->ended || got == ARCHIVE_EOF) {
		struct str rest; /* invariant 2: the file's own digest is of all of it */
		int more = 1;
		p->ended = true;
		while (more > 0)
			more = p->from.next(p->from.ctx, &rest, err);
		return more;
	}
	hasher_add(p->hasher, bytes, n);
	p->bytes += n;
	if (p->bytes > LAYER_RAW_MAX_BYTES)
		return err_set(err, ERR_CORRUPT, "an archive of more than 4 TiB");
	*out = (struct str){bytes, n};
	return 1;
}

struct tar_source
source_plain_bytes(struct source_plain *p)
{
	return (struct tar_source){next_plain, p};
}

struct digest
source_plain_sum(const struct source_plain *p, uint64_t *out_bytes)
{
	*out_bytes = p->bytes;
	return hasher_sum(p->hasher);
}
