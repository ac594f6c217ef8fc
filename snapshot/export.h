/* A snapshot as one stream for other tools, written to a sink. What is read is judged on the way:
 * at the end of a layer its digests were right, or it fails with CORRUPT. */
#ifndef BERTH_EXPORT_H
#define BERTH_EXPORT_H

#include "layer.h"
#include "tar.h"

/* A tar of an OCI image layout: the manifest, its config and layers, byte for byte as they are
 * stored (export.c). `import` and skopeo's oci-archive: take it. */
int export_oci(const struct layer_options *o, const struct digest *manifest, struct tar_sink sink,
	       struct err *err) must_check;
/* The form of `docker save`: layers as plain tars. tag: NAME:TAG. */
int export_docker(const struct layer_options *o, const struct digest *manifest, const char *tag,
		  struct tar_sink sink, struct err *err) must_check;
/* All layers as one plain tar, deletions done; a directory before what is in it (export_tar.c). */
int export_tar(const struct layer_options *o, const struct digest *layers, size_t n,
	       struct tar_sink sink, struct err *err) must_check;

#endif
