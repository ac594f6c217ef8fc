/* A snapshot as OCI has it: an image manifest and its config, as JSON and back. Keys are sorted and
 * nothing is between them, so equal snapshots are equal bytes.
 *
 *   manifest  application/vnd.oci.image.manifest.v1+json: config, layers, and annotations
 *             berth.session .session-name .parent .image .fingerprint .made-by
 *             org.opencontainers.image.created
 *   config    application/vnd.oci.image.config.v1+json: rootfs.diff_ids, and one line of history a
 *             layer, which says what made it
 *   layers    application/vnd.oci.image.layer.v1.tar+zstd, the lowest first; the image that lies
 *             below them all is named, not included
 *
 * The mutable facts of a snapshot (refs/<hex>.json) are in oci.h. */
#ifndef BERTH_MANIFEST_H
#define BERTH_MANIFEST_H

#include "base/digest.h"

#include <stdint.h>

enum { MANIFEST_LAYERS_MAX = 4096, MANIFEST_MAX_BYTES = 4 << 20 };

struct manifest_layer {
	struct digest digest, diff_id;
	uint64_t bytes;
	char *made_by, *created; /* owned; of its line of history, NULL: not known */
};

struct manifest {
	struct manifest_layer *layers; /* owned */
	size_t n_layers;
	bool has_parent;
	struct digest parent, config; /* config: of one that was loaded */
	char *session, *session_name, *image, *fingerprint,
	    *made_by;  /* owned, never NULL when loaded */
	char *created; /* owned; RFC 3339 */
};

#define auto_manifest __attribute__((cleanup(manifest_done))) struct manifest
void manifest_done(struct manifest *m);
/* The config first: the manifest names its digest and size. */
int manifest_format_config(const struct manifest *m, struct buf *out, struct err *err) must_check;
int manifest_format(const struct manifest *m, const struct digest *config, uint64_t config_bytes,
		    struct buf *out, struct err *err) must_check;
/* CORRUPT when the text is not one that was written here. parse_config adds diff_ids and history
 * to a manifest that was parsed. */
int manifest_parse(struct str text, struct manifest *out, struct err *err) must_check;
int manifest_parse_config(struct str text, struct manifest *m, struct err *err) must_check;

/* A copy of foreign text that JSON can hold: what is not UTF-8 becomes U+FFFD. */
char *manifest_text(struct str s);

#endif
