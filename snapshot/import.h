/* A snapshot out of a tar of an OCI image layout, as export_oci makes it, of this store or
 * another's. In any order of its files; layers are of the form that is written here, others are
 * refused.
 *
 * Every blob has the digest by which it is named, every layer unpacks to the diff_id that the
 * config lists and is read to its end, or it fails with CORRUPT. Layers are durable in the store
 * when it returns, with their indexes; manifest and config are not kept: the caller writes its own.
 * After a failure whole layers may stay, which nothing names. */
#ifndef BERTH_IMPORT_H
#define BERTH_IMPORT_H

#include "layer.h"
#include "manifest.h"
#include "tar.h"

struct import_layer {
	struct frames_sum sum;
	struct layer_counts counts;
};

struct import {
	struct manifest manifest;    /* owned: as it was exported */
	struct import_layer *layers; /* owned; manifest.n_layers of them, in its order */
};

#define auto_import __attribute__((cleanup(import_done))) struct import
void import_done(struct import *i);
int import_oci(const struct layer_options *o, const struct tar_source *in, struct import *out,
	       struct err *err) must_check;

#endif
