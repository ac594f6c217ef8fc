/* What verify finds wrong of a store, put right where that can be had: an index from its archive, a
 * blob from the mirror, a ref from what its caller knows. And the mirror itself: a second store, on
 * another disk, that holds the same blobs and refs (no indexes: they follow from archives).
 *
 * Invariants
 *  1. nothing takes the place of a file before its bytes were read back right from where they come;
 *  2. a mirror is written as a store is: bytes, sync, name, sync; a blob before the ref that needs
 * it. */
#ifndef BERTH_REPAIR_H
#define BERTH_REPAIR_H

#include "collect.h"
#include "oci.h"

/* Reads all of a layer. On failure, and with repair, takes it from the mirror (-1: there is none)
 * where the archive is bad, and makes its index anew. Good and absent in the mirror: it is copied
 * there. returns 0 it was good, 1 it is now, and err says what was wrong, -1 */
int repair_layer(const struct layer_options *o, int mirror, bool repair,
		 const struct digest *digest, const struct digest *diff_id,
		 struct layer_counts *out, struct err *err) must_check;

struct repair_snapshot { /* what the index has; all lent */
	struct str session, calls, facts;
	const struct digest *layers;
	size_t n_layers;
	uint64_t created_ns;
};

/* Manifest, config and ref. Returns as repair_layer. */
int repair_snapshot(const struct layer_options *o, int mirror, bool repair,
		    const struct digest *manifest, const struct repair_snapshot *s,
		    struct err *err) must_check;

/* ---- the mirror; -1: none, and nothing is done ---- */
/* A blob of the store, unless the mirror has one of its size. */
int mirror_blob(int store, int mirror, const struct digest *d, struct err *err) must_check;
/* A ref as it is now. */
int mirror_ref(int store, int mirror, const char *name, struct err *err) must_check;
/* A snapshot whose layers are there: config, manifest, ref. */
int mirror_snapshot(int store, int mirror, const struct digest *manifest,
		    struct err *err) must_check;

/* What a collector has removed from the store. Absent is success. */
int mirror_remove(int mirror, const struct collect_item *i, struct err *err) must_check;

#endif
