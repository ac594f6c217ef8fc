#include "tar.h"
#include "whiteout.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <langinfo.h>
#include <locale.h>
#include <stdlib.h>

struct tar_reader {
	struct tar_source source;
	struct archive *archive; /* owned */
	struct err why;          /* of the source, when it fails in a callback */
	bool source_failed;
	bool foreign;
	uint64_t dropped;
	struct buf path, link;
	struct attrs attrs;
	uint64_t size;           /* of the current file */
	locale_t locale, before; /* owned, 0: the thread's own will do; what to go back to */
};

static int
next_frame(void *ctx, struct str *out, struct err *err)
{
	return frames_next(ctx, out, err);
}

static la_ssize_t
read_source(struct archive *a, void *ctx, const void **out)
{
	struct tar_reader *t = ctx;
	struct str bytes = {0};

	(void)a;
	const int got = t->source.next(t->source.ctx, &bytes, &t->why);
	if (got < 0) {
		t->source_failed = true;
		archive_set_error(a, EIO, "the source");
		return -1;
	}
	*out = bytes.at;
	return (la_ssize_t)bytes.len;
}

static int
fail(struct tar_reader *t, const char *doing, struct err *err)
{
	if (t->source_failed) {
		*err = t->why;
		return -1;
	}
	const char *text = archive_error_string(t->archive);
	return err_set(err, ERR_CORRUPT, "%s: %s", doing, text ? text : "not a tar archive");
}

/* libarchive brings UTF-8 names into the thread's charset: that has to be UTF-8 too. The raw names
 * of plain headers are left alone either way. */
static int
take_locale(struct tar_reader *t, struct err *err)
{
	if (strcmp(nl_langinfo(CODESET), "UTF-8") == 0)
		return 0;
	t->locale = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
	if (!t->locale)
		return err_set(err, ERR_UNAVAILABLE,
			       "the locale C.UTF-8 is missing on this machine");
	t->before = uselocale(t->locale);
	return 0;
}

static struct tar_reader *
open_reader(const struct tar_source *source, bool foreign, struct err *err)
{
	auto_of(tar_reader) struct tar_reader *t = xnew(1, sizeof *t);

	t->source = *source;
	t->foreign = foreign;
	t->path = BUF_MAX(ENTRY_PATH_MAX_BYTES);
	t->link = BUF_MAX(ENTRY_PATH_MAX_BYTES);
	t->archive = archive_read_new();
	if (!t->archive) {
		err_set(err, ERR_UNAVAILABLE, "no memory to read a tar");
		return NULL;
	}
	if (take_locale(t, err) < 0)
		return NULL;
	if (archive_read_support_format_tar(t->archive) != ARCHIVE_OK ||
	    archive_read_open(t->archive, t, NULL, read_source, NULL) != ARCHIVE_OK) {
		fail(t, "open the tar", err);
		return NULL;
	}
	return steal(&t);
}

struct tar_reader *
tar_reader_new(struct frames_reader *frames, struct err *err)
{
	return open_reader(&(struct tar_source){next_frame, frames}, false, err);
}

struct tar_reader *
tar_reader_foreign(const struct tar_source *source, struct err *err)
{
	return open_reader(source, true, err);
}

uint64_t
tar_dropped(const struct tar_reader *t)
{
	return t->dropped;
}

void
tar_reader_free(struct tar_reader *t)
{
	if (!t)
		return;
	archive_read_free(t->archive);
	attrs_done(&t->attrs);
	buf_free(&t->path);
	buf_free(&t->link);
	if (t->locale) {
		uselocale(t->before);
		freelocale(t->locale);
	}
	free(t);
}

static int
take_type(struct archive_entry *a, enum entry_type *out, struct err *err)
{
	if (archive_entry_hardlink(a)) {
		*out = ENTRY_LINK;
		return 0;
	}
	switch (archive_entry_filetype(a)) {
	case AE_IFREG:
		*out = ENTRY_FILE;
		return 0;
	case AE_IFDIR:
		*out = ENTRY_DIR;
		return 0;
	case AE_IFLNK:
		*out = ENTRY_SYMLINK;
		return 0;
	case AE_IFIFO:
		*out = ENTRY_FIFO;
		return 0;
	default:
		return err_set(err, ERR_CORRUPT,
			       "the archive holds a device or another entry that no "
			       "workspace can");
	}
}

static int
take_link(struct tar_reader *t, struct archive_entry *a, struct entry *e, struct err *err)
{
	buf_clear(&t->link);
	if (e->type == ENTRY_LINK) {
		if (whiteout_decode_link(str_of(archive_entry_hardlink(a)), &t->link, err) < 0)
			return -1;
	} else if (e->type == ENTRY_SYMLINK) {
		const char *target = archive_entry_symlink(a);
		if (!target || !*target || strlen(target) > 4095)
			return err_set(err, ERR_CORRUPT,
				       "a symbolic link without a target, or one "
				       "longer than 4095 bytes");
		buf_text(&t->link, target);
	}
	e->link = buf_view(&t->link);
	return 0;
}

static int
take_attrs(struct tar_reader *t, struct archive_entry *a, struct err *err)
{
	const char *name;
	const void *value;
	size_t n;

	attrs_done(&t->attrs);
	archive_entry_xattr_reset(a);
	while (archive_entry_xattr_next(a, &name, &value, &n) == ARCHIVE_OK)
		if ((!t->foreign || attrs_may_travel(name)) &&
		    attrs_add(&t->attrs, str_of(name), (struct str){value, n}, err) < 0)
			return -1;
	return 0;
}

static int
take_numbers(struct archive_entry *a, struct entry *e, struct err *err)
{
	const la_int64_t uid = archive_entry_uid(a), gid = archive_entry_gid(a);
	const la_int64_t size = archive_entry_size(a);

	if (uid < 0 || uid > UINT32_MAX - 1 || gid < 0 || gid > UINT32_MAX - 1 || size < 0)
		return err_set(err, ERR_CORRUPT, "an owner or a size that cannot be");
	e->mode = archive_entry_perm(a) & 07777;
	e->uid = (uint32_t)uid;
	e->gid = (uint32_t)gid;
	e->size = e->type == ENTRY_FILE ? (uint64_t)size : 0;
	e->mtime_s = archive_entry_mtime(a);
	e->mtime_ns = (uint32_t)archive_entry_mtime_nsec(a) % 1000000000u;
	return 0;
}

static bool
is_device(struct archive_entry *a)
{
	const unsigned type = archive_entry_filetype(a);
	return !archive_entry_hardlink(a) && (type == AE_IFCHR || type == AE_IFBLK);
}

int
tar_next(struct tar_reader *t, struct entry *out, struct err *err)
{
	struct archive_entry *a;
	struct entry e = {0};
	int got = archive_read_next_header(t->archive, &a);

	while (got == ARCHIVE_OK && t->foreign && is_device(a)) {
		t->dropped++;
		got = archive_read_next_header(t->archive, &a);
	}

	if (got == ARCHIVE_EOF) {
		/* What follows the end of the tar must be read too: it is part of the digests. */
		struct str rest;
		int more;
		while ((more = t->source.next(t->source.ctx, &rest, err)) > 0)
			;
		return more;
	}
	if (got != ARCHIVE_OK) /* a warning too: a header that is half understood is not applied */
		return fail(t, "read a header", err);
	const char *name = archive_entry_pathname(a);
	if (!name)
		return err_set(err, ERR_CORRUPT, "an entry of the archive has no name");
	if (take_type(a, &e.type, err) < 0)
		return err_add(err, "%.200s", name);
	buf_clear(&t->path);
	if (whiteout_decode(str_of(name), &e.type, &t->path, err) < 0)
		return -1;
	e.path = buf_view(&t->path);
	if (take_link(t, a, &e, err) < 0 || take_attrs(t, a, err) < 0 ||
	    take_numbers(a, &e, err) < 0)
		return err_add(err, "%.200s", name);
	if (buf_bad(&t->path) || buf_bad(&t->link))
		return err_set(err, ERR_CORRUPT, "a path of the archive is too long");
	e.attrs = &t->attrs;
	e.sparse = archive_entry_sparse_count(a) > 0;
	t->size = e.size;
	*out = e;
	return 1;
}

uint64_t
tar_data_at(const struct tar_reader *t)
{
	const la_int64_t at = archive_filter_bytes(t->archive, 0); /* of the plain bytes */
	return at > 0 ? (uint64_t)at : 0;
}

int
tar_read(struct tar_reader *t, struct str *out, uint64_t *out_at, struct err *err)
{
	const void *bytes;
	size_t n;
	la_int64_t at;

	for (;;) {
		const int got = archive_read_data_block(t->archive, &bytes, &n, &at);
		if (got == ARCHIVE_EOF)
			return 0;
		if (got != ARCHIVE_OK)
			return fail(t, "read a file", err);
		if (n == 0)
			continue;
		if (at < 0 || (uint64_t)at > t->size || n > t->size - (uint64_t)at)
			return err_set(err, ERR_CORRUPT,
				       "a file of the archive is longer than its "
				       "header says");
		*out = (struct str){bytes, n};
		*out_at = (uint64_t)at;
		return 1;
	}
}
