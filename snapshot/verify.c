/* Reads all of an archive and its index, and says the first thing that is not as it was written. */
#include "base/fd.h"
#include "base/path.h"
#include "blob.h"
#include "idx.h"
#include "layer.h"
#include "tar.h"
#include "unpack.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

static struct idx_reader *
open_idx(const struct layer_options *o, const struct digest *digest, int *out_fd, struct err *err)
{
	char name[96];

	snprintf(name, sizeof name, "idx/%s.idx", digest_text(digest).text);
	*out_fd = path_open(o->store, name, O_RDONLY, err);
	if (*out_fd < 0) {
		if (errno == ENOENT)
			err_set(err, ERR_CORRUPT, "its index is missing");
		return NULL;
	}
	return idx_check(*out_fd, err) < 0 ? NULL : idx_reader_new(*out_fd, err);
}

static int
compare_entries(const struct layer_options *o, struct tar_reader *tar, struct idx_reader *idx,
		struct layer_counts *out, struct err *err)
{
	struct entry e;
	struct str piece;
	uint64_t at;
	int more;

	while ((more = tar_next(tar, &e, err)) > 0) {
		const int has = idx_has(idx, &e, err);
		if (has < 0)
			return -1;
		if (!has)
			return err_set(err, ERR_CORRUPT, "its index has another entry at /%.*s",
				       (int)(e.path.len < 200 ? e.path.len : 200),
				       e.path.at ? e.path.at : "");
		out->entries++;
		out->files += e.type == ENTRY_FILE;
		while (e.type == ENTRY_FILE && (more = tar_read(tar, &piece, &at, err)) > 0) {
			out->raw_bytes += piece.len;
			if (o->watch.step &&
			    o->watch.step(o->watch.ctx, out->raw_bytes, out->entries, err) < 0)
				return -1;
		}
		if (more < 0)
			return -1;
	}
	return more;
}

static int
verify(const struct layer_options *o, const struct digest *digest, const struct digest *diff_id,
       struct layer_counts *out, struct err *err)
{
	struct layer_counts counts = {0};
	struct frames_sum sum, said;
	uint64_t bytes, entries;

	auto_close int fd = blob_open(o->store, digest, &bytes, err);
	if (fd < 0)
		return -1;
	auto_close int idx_fd = -1;
	auto_of(idx_reader) struct idx_reader *idx = open_idx(o, digest, &idx_fd, err);
	if (!idx)
		return -1;
	auto_of(frames_reader) struct frames_reader *frames =
	    frames_reader_new(fd, unpack_threads(o), LAYER_RAW_MAX_BYTES, err);
	if (!frames)
		return -1;
	auto_of(tar_reader) struct tar_reader *tar = tar_reader_new(frames, err);
	if (!tar || idx_layer(idx, &said, &entries, err) < 0 ||
	    compare_entries(o, tar, idx, &counts, err) < 0 ||
	    frames_reader_sum(frames, &sum, err) < 0 ||
	    unpack_judge(&sum, digest, diff_id, err) < 0)
		return -1;
	if (entries != counts.entries || said.bytes != sum.bytes ||
	    said.raw_bytes != sum.raw_bytes || !digest_equal(&said.diff_id, &sum.diff_id) ||
	    !digest_equal(&said.digest, digest))
		return err_set(err, ERR_CORRUPT, "its index is of another archive");
	counts.bytes = sum.bytes;
	counts.raw_bytes = sum.raw_bytes;
	*out = counts;
	return 0;
}

int
verify_layer(const struct layer_options *o, const struct digest *digest,
	     const struct digest *diff_id, struct layer_counts *out, struct err *err)
{
	if (verify(o, digest, diff_id, out, err) < 0)
		return err_add(err, "archive %.12s", digest_text(digest).text);
	return 0;
}
