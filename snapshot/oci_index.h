/* STORE/index.json: the list by which podman and skopeo find the snapshots of an OCI layout, each
 * as SESSION+DIGEST (12 digits). It follows from the refs, and nothing of ours reads it: it is
 * written whole under a temp name, but not synced, and made anew where it is not as it was left.
 *
 *   {"schemaVersion":2,"mediaType":…,"manifests":[
 *   {one snapshot},
 *   {one snapshot}
 *   ]}                            in this form, so that one more needs no reading of the others */
#ifndef BERTH_OCI_INDEX_H
#define BERTH_OCI_INDEX_H

#include "manifest.h"

/* One more snapshot, whose ref is written. */
int oci_index_add(int store, const struct digest *manifest, uint64_t bytes,
		  const char *session_name, struct err *err) must_check;
/* All of it, of the refs. */
int oci_index_write(int store, struct err *err) must_check;

#endif
