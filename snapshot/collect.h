/* What stands in a store and a cache, and the removal of single things of it. Who calls decides
 * what goes; what is told here are facts.
 *
 * Invariants
 *  1. a blob goes only when nobody has touched it since it was listed: blob_commit touches what it
 *     finds and keeps, and both hold the store's lock (blob_hold) while they look and act;
 *  2. a layer's blob and its index go together, and a ref before what it tells of;
 *  3. what is removed has another name first (a temp name): a sweep ends what a death interrupts.
 */
#ifndef BERTH_COLLECT_H
#define BERTH_COLLECT_H

#include "layer.h"

enum collect_kind {
	COLLECT_BLOB = 1, /* layer, manifest or config; bytes with its index */
	COLLECT_IDX,      /* an index without its layer */
	COLLECT_REF,      /* refs/<hex>.json; of: the config of that manifest */
	COLLECT_CACHE,    /* cache/layers/<hex>; mtime_ns: of its last use */
	COLLECT_SESSION,  /* refs/session-<id>.json; digest: the id as text; has_of: it tells of a
			     removed one */
	COLLECT_KINDS
};

struct collect_item {
	enum collect_kind kind;
	struct digest digest, of;
	bool has_of;
	uint64_t bytes; /* on disk */
	uint64_t mtime_ns;
};

struct collect_list {
	struct collect_item *at; /* owned */
	size_t n, cap;
};

enum { COLLECT_MOST = 4 * 1000 * 1000 };

void collect_done(struct collect_list *l);
/* All of them, in no order. What cannot be read is listed without `of`. */
int collect_read(const struct layer_options *o, struct collect_list *out,
		 struct err *err) must_check;
/* 1 it is gone (out_bytes were freed), 0 it was touched, or there is none, -1. Not of
 * COLLECT_CACHE. */
int collect_remove(int store, const struct collect_item *i, uint64_t *out_bytes,
		   struct err *err) must_check;
/* The manifests and configs that refs name now, sorted: no such blob may go. */
int collect_named(const struct layer_options *o, struct digest **out, size_t *n,
		  struct err *err) must_check;
bool collect_is_named(const struct digest *sorted, size_t n, const struct digest *d);
/* Makes removals of refs durable: before those of what they tell of. */
int collect_sync_refs(int store, struct err *err) must_check;
int collect_remove_session(int store, struct str id, struct err *err) must_check;
/* Removes the trees of `dir` that were put aside: "gone." and anything. Adds up their bytes. */
int collect_clear(const struct layer_options *o, int dir, uint64_t *out_bytes,
		  struct err *err) must_check;

#endif
