/* What a store tells of the sessions, snapshots and images in it, for an index that is made anew:
 * one fact after another, each a kind and pairs of a key and a value.
 *
 *   image     content (hex), layers (hex, one after the other), env ("NAME=VALUE\n" each), cwd,
 * user, home, uid, gid, bytes, entries, dropped name      name, content (hex): what the name of an
 * image stands for session   id; each text and number of its ref under its name; labels
 * ("KEY=VALUE\n" each), "limit KEY", "ceiling KEY", "wall KEY" (of those that were set), "mount N"
 * (SRC:DST[:ro]) layer     digest, diff_id (hex), bytes, raw_bytes, entries chain     layers (hex)
 * of the snapshot to come, the lowest first; more than one where they are many snapshot  digest,
 * parent (hex), session, image, made_by, calls, created_ns, bytes (of what it added), total_bytes,
 * name, note, labels, pinned, expires_ns fault     file, why: what could not be read; the rest of
 * it is told as far as it can be
 *
 * In this order, but for layers and faults, which come before what they belong to. */
#ifndef BERTH_RECALL_H
#define BERTH_RECALL_H

#include "layer.h"

enum { RECALL_PAIRS_MAX_BYTES = 256 * 1024, RECALL_KIND_BYTES = 16 };

struct recall;

struct recall *recall_new(const struct layer_options *o, struct err *err) must_check;
void recall_free(struct recall *r);
AUTO_OF(recall)
/* The next fact: "KEY\0VALUE\0" pairs. 1 one, 0 the end, -1. */
int recall_next(struct recall *r, char out_kind[RECALL_KIND_BYTES], struct buf *out_pairs,
		struct err *err) must_check;

#endif
