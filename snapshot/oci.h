/* Snapshots and sessions in a store: written in the order that makes them durable, and read back.
 *
 *   STORE/blobs/sha256/<hex>      manifest and config (manifest.h)
 *   STORE/refs/<hex>.json         of the snapshot with this manifest: session, session_name, image,
 *                                 parent, config, created, created_ns, made_by, calls,
 *                                 layers [{digest, size}]; and facts,
 *                                 which may change later and are nowhere else: {name, note, labels
 *                                 {KEY: VALUE}, pinned, expires_ns}, each where it is not empty
 *   STORE/refs/session-<id>.json  of a session, as the manager words it */
#ifndef BERTH_OCI_H
#define BERTH_OCI_H

#include "manifest.h"

struct oci_snapshot { /* all lent */
	struct str session, session_name, image, made_by, fingerprint;
	struct str calls; /* ids of the calls that made it, blanks between */
	struct str facts; /* a JSON object, as the caller words it; empty: {} */
	const struct digest *parent;            /* NULL: the first of its session */
	const struct digest *layers, *diff_ids; /* n_layers each, the lowest first */
	const uint64_t *sizes;
	const bool *merged; /* which are made of others: nothing of them is new; NULL: none */
	size_t n_layers;
	uint64_t created_ns; /* CLOCK_REALTIME */
};

/* Config, manifest, ref: each durable before the next. */
int oci_write_snapshot(int store, const struct oci_snapshot *s, struct digest *out_manifest,
		       struct err *err) must_check;
/* Its ref with other facts; ABSENT when there is none. */
int oci_write_facts(int store, const struct digest *manifest, struct str facts,
		    struct err *err) must_check;
/* Its ref anew, of its manifest and of what nothing else in the store tells. */
int oci_rewrite_ref(int store, const struct digest *manifest, const struct manifest *m,
		    struct str calls, struct str facts, uint64_t created_ns,
		    struct err *err) must_check;
/* The config of a snapshot, by its ref or its manifest. ABSENT, CORRUPT: neither can be read. */
int oci_find_config(int store, const struct digest *manifest, struct digest *out,
		    struct err *err) must_check;
/* Manifest and config, whole and judged. */
int oci_load(int store, const struct digest *manifest, struct manifest *out,
	     struct err *err) must_check;
/* Whether the ref of this name tells of a removed session. */
bool oci_session_is_deleted(int store, const char *ref);
/* id: of the form s_ + 16 base32. json: an object; what it says is the caller's. */
int oci_write_session(int store, struct str id, struct str json, struct err *err) must_check;

#endif
