/* The public face of the snapshot library: an upper of overlayfs ⇄ a layer in a store ⇄ a directory
 * that overlayfs stacks. It knows no session and no wire; all it touches it is given as directory
 * fds. Ids on disk are those of the session (0 to 65535, whatever maps them).
 *
 *   upper ──capture──▶ STORE/blobs, idx ──unpack──▶ CACHE/layers/<hex> ──▶ overlayfs
 *                                       ──compact─▶ (several layers as one directory)
 *                                       ──verify
 *
 * Every function leaves nothing behind when it fails. One that is killed leaves temp files, which
 * layer_sweep removes. */
#ifndef BERTH_LAYER_H
#define BERTH_LAYER_H

#include "base/digest.h"
#include "frames.h"

#include <stdbool.h>

/* What a long job asks now and then (about every MiB or 64 entries): progress, counted since the
 * job began. Its failure ends the job, which cleans up and passes it on. */
struct layer_watch {
	int (*step)(void *ctx, uint64_t bytes, uint64_t entries, struct err *err); /* may be NULL */
	/* Of a capture: nothing of the upper is read from here on. May be NULL. */
	int (*all_read)(void *ctx, uint64_t bytes, struct err *err);
	void *ctx;
};

struct layer_options {
	int store, cache; /* lent; -1 where the act needs none */
	int level;        /* of zstd; 0: 1 */
	unsigned threads; /* 0: 1; at most FRAMES_THREADS_MAX are used */
	struct layer_watch watch;
	/* The workspace belongs to one user, whatever its files' owners are in archives, where they
	 * are root's: for who may not give files away. owner, group: who; -1: who makes them. */
	bool one_owner;
	int64_t owner, group;
};

/* What a layer may hold before it is refused: a small archive must not fill the disk. */
enum { LAYER_ENTRIES_MAX = 20 * 1000 * 1000 };
#define LAYER_RAW_MAX_BYTES (1ull << 42)

struct layer_counts {
	uint64_t bytes, raw_bytes, entries, files;
	uint64_t skipped; /* sockets and the like, not captured */
	uint64_t torn;    /* files that became shorter while they were read */
};

/* ---- capture.c ---- */
struct capture; /* one upper in one job; remembers what it saw */

/* upper: a directory of overlayfs, mounted with userxattr or not at all; scratch: where a temp file
 * may be. Both lent until capture_free. */
struct capture *capture_new(const struct layer_options *o, int upper, int scratch,
			    struct err *err) must_check;
void capture_free(struct capture *c);
AUTO_OF(capture)
/* Before the first run: what a run of an earlier process saw of this upper, in a file that it sealed
 * with `snapshot`; and a file for what the next run sees. Each -1 for none.
 *   returns  1: the next run compares with that; 0: it is not to be believed, and all of the upper is
 *            captured, on top of what the upper itself stands on */
int capture_remember(struct capture *c, int take_before, int take_next,
		     const struct digest *snapshot, struct err *err) must_check;
/* What the last run saw is what `snapshot` holds. That run wrote into a file of capture_remember. */
int capture_seal(struct capture *c, const struct digest *snapshot, struct err *err) must_check;

enum capture_how {
	/* compares nothing: all that is there is written again, and what is gone is deleted */
	CAPTURE_TRUST_NOTHING = 1,
	CAPTURE_MAPPED = 2, /* somebody may write into memory that maps a file */
	CAPTURE_ROOT = 4, /* there is a layer, though nothing but the root be in it */
};
/* The first time: all of the upper. Then: what differs from the run before, as a further layer on
 * top of that run's. Durable in the store when it returns.
 *   how      of enum capture_how
 *   returns  1 a layer, 0 nothing to capture (out's digests are zero), -1; after a failure the run
 *            before is still what the next one compares with */
int capture_run(struct capture *c, unsigned how, struct frames_sum *out,
		struct layer_counts *out_counts, struct err *err) must_check;

/* ---- unpack.c, unpack_all.c, compact.c, verify.c ---- */
/* Makes CACHE/layers/<digest> from the archive. One that is there and trusted is left as it is.
 *   diff_id  not judged: the archive's digest settles all of its bytes; verify_layer judges both
 *   fails    CORRUPT: the archive is absent, damaged, or holds what no workspace can */
int unpack_layer(const struct layer_options *o, const struct digest *digest,
		 const struct digest *diff_id, struct layer_counts *out,
		 struct err *err) must_check;
/* Makes CACHE/layers/<into> of n layers of the store, the lowest first, so that stacking it is
 * stacking them: deletions that may still hide something of the image stay. */
int compact_layers(const struct layer_options *o, const struct digest *layers, size_t n,
		   const struct digest *into, struct layer_counts *out, struct err *err) must_check;
struct layer_wanted {                /* all lent */
	const struct digest *layers; /* each to be a directory by itself */
	size_t n;
	const struct digest *flat; /* to be one directory together, CACHE/layers/<into> */
	size_t n_flat;             /* 0: there is none */
	struct digest into;
};
/* CACHE/layers/<made> is there. Its failure ends the job. */
typedef int (*layer_ready_fn)(void *ctx, const struct digest *made, struct err *err);
/* All of these, by o->threads threads at the most, each as by the two above. The watch and `ready`
 * (may be NULL) are called by one thread at a time, and progress is of all together. After a
 * failure what `ready` was told of is there, and nothing else. */
int unpack_all(const struct layer_options *o, const struct layer_wanted *wanted,
	       layer_ready_fn ready, void *ctx, struct layer_counts *out,
	       struct err *err) must_check;
/* Makes of n layers, the lowest first, all that there is of a workspace: no overlay is needed to see
 * it, deletions are done. dir: an empty directory. Not synced. */
int unpack_whole(const struct layer_options *o, const struct digest *layers, size_t n, int dir,
		 struct layer_counts *out, struct err *err) must_check;
/* Reads all of an archive and its index, and fails with CORRUPT at the first byte that is not what
 * was written. diff_id: may be NULL. */
int verify_layer(const struct layer_options *o, const struct digest *digest,
		 const struct digest *diff_id, struct layer_counts *out,
		 struct err *err) must_check;

/* ---- cache.c ---- */
/* Whether CACHE/layers/<digest> is there and can be relied on: it was synced, or no power was lost
 * since it was made. */
bool cache_layer_trusted(int cache, const struct digest *digest);
/* syncfs, then marks these layers as synced; n 0: all that are there. */
int cache_sync(int cache, const struct digest *layers, size_t n, struct err *err) must_check;
/* Removes what killed jobs left in the store and the cache (-1: not given). */
int layer_sweep(int store, int cache, struct err *err) must_check;

#endif
