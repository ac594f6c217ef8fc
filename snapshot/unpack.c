/* From an archive to a directory of the layer cache. What is read gets its name only when its
 * digest was the one that was asked for. */
#include "apply.h"
#include "base/fd.h"
#include "blob.h"
#include "cache.h"
#include "unpack.h"

unsigned
unpack_threads(const struct layer_options *o)
{
	return !o->threads ? 1 : o->threads > FRAMES_THREADS_MAX ? FRAMES_THREADS_MAX : o->threads;
}

int
unpack_judge(const struct frames_sum *sum, const struct digest *digest,
	     const struct digest *diff_id, struct err *err)
{
	if (!digest_equal(&sum->digest, digest))
		return err_set(err, ERR_CORRUPT, "the archive %.12s holds bytes of %.12s",
			       digest_text(digest).text, digest_text(&sum->digest).text);
	if (diff_id && !digest_equal(&sum->diff_id, diff_id))
		return err_set(err, ERR_CORRUPT, "the archive %.12s unpacks to %.12s, not to %.12s",
			       digest_text(digest).text, digest_text(&sum->diff_id).text,
			       digest_text(diff_id).text);
	return 0;
}

int
unpack_into(struct apply *a, const struct layer_options *o, const struct digest *digest,
	    const struct digest *diff_id, struct layer_counts *out, struct err *err)
{
	struct frames_sum sum;
	uint64_t bytes;

	auto_close int fd = blob_open(o->store, digest, &bytes, err);
	if (fd < 0)
		return -1;
	auto_of(frames_reader) struct frames_reader *frames =
	    diff_id ? frames_reader_new(fd, unpack_threads(o), LAYER_RAW_MAX_BYTES, err)
		    : frames_reader_by_digest(fd, unpack_threads(o), LAYER_RAW_MAX_BYTES, err);
	if (!frames)
		return err_add(err, "%.12s", digest_text(digest).text);
	out->raw_bytes += frames_raw_bytes(frames);
	if (apply_archive(a, frames, out, err) < 0 || frames_reader_sum(frames, &sum, err) < 0)
		return err_add(err, "%.12s", digest_text(digest).text);
	out->bytes += sum.bytes;
	return unpack_judge(&sum, digest, diff_id, err);
}

int
unpack_layer(const struct layer_options *o, const struct digest *digest,
	     const struct digest *diff_id, struct layer_counts *out, struct err *err)
{
	auto_cache_new made = CACHE_NEW_NONE;
	struct layer_counts counts = {0};

	if (cache_layer_trusted(o->cache, digest)) {
		*out = counts;
		return 0;
	}
	if (cache_begin(o->cache, &made, err) < 0)
		return err_add(err, "unpack");
	auto_of(apply) struct apply *a = apply_new(made.dir, false, o, err);
	(void)diff_id; /* what the digest has settled is not hashed again: verify judges it */
	if (!a || unpack_into(a, o, digest, NULL, &counts, err) < 0) {
		cache_say_space(&made, counts.raw_bytes, err);
		return err_add(err, "unpack");
	}
	if (cache_commit(&made, digest, err) < 0)
		return err_add(err, "unpack %.12s", digest_text(digest).text);
	*out = counts;
	return 0;
}

int
unpack_whole(const struct layer_options *o, const struct digest *layers, size_t n, int dir,
	     struct layer_counts *out, struct err *err)
{
	auto_of(apply) struct apply *a = apply_new(dir, true, o, err);

	*out = (struct layer_counts){0};
	if (!a)
		return err_add(err, "unpack a workspace");
	apply_alone(a);
	for (size_t i = 0; i < n; i++)
		if (unpack_into(a, o, &layers[i], NULL, out, err) < 0)
			return err_add(err, "unpack a workspace");
	return 0;
}
