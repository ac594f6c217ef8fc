/* What unpacking one archive and merging several have in common. */
#ifndef BERTH_UNPACK_H
#define BERTH_UNPACK_H

#include "apply.h"

/* Reads an archive of the store into a; its bytes are judged at the end. out is added to. */
int unpack_into(struct apply *a, const struct layer_options *o, const struct digest *digest,
		const struct digest *diff_id, struct layer_counts *out, struct err *err) must_check;
/* Whether the digests are those wanted; diff_id may be NULL. */
int unpack_judge(const struct frames_sum *sum, const struct digest *digest,
		 const struct digest *diff_id, struct err *err) must_check;
unsigned unpack_threads(const struct layer_options *o);

#endif
