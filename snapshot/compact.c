/* A long chain as one directory: the archives are read in turn, the lowest first, each replacing
 * what it replaces (apply.h, invariant 4). Nothing is recompressed and no archive is made: the
 * chain in the store stays as it is. */
#include "cache.h"
#include "unpack.h"

int
compact_layers(const struct layer_options *o, const struct digest *layers, size_t n,
	       const struct digest *into, struct layer_counts *out, struct err *err)
{
	auto_cache_new made = CACHE_NEW_NONE;
	struct layer_counts counts = {0};

	if (cache_layer_trusted(o->cache, into)) {
		*out = counts;
		return 0;
	}
	if (cache_begin(o->cache, &made, err) < 0)
		return err_add(err, "merge layers");
	auto_of(apply) struct apply *a = apply_new(made.dir, true, o, err);
	if (!a)
		return err_add(err, "merge layers");
	for (size_t i = 0; i < n; i++)
		if (unpack_into(a, o, &layers[i], NULL, &counts, err) < 0) {
			cache_say_space(&made, counts.raw_bytes, err);
			return err_add(err, "merge layers");
		}
	if (cache_commit(&made, into, err) < 0)
		return err_add(err, "merge layers into %.12s", digest_text(into).text);
	*out = counts;
	return 0;
}
