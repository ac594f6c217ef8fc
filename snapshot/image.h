/* Images: the read-only bottom of workspaces, made of what an operator names. An image is a list of
 * layers, each a directory in the form of overlayfs that is named by its content, and the facts
 * that its OCI config tells.
 *
 *   CACHE/images/<hex>               a layer: the diff_id of its tar. Synced before it has its name
 *   CACHE/images/.tmp.<hex>          being made; locked by who does it
 *   STORE/refs/image-<64 hex>.json   facts of the image with this content, which is their sha256
 *   STORE/refs/image-<name>.json     {"content", "facts", "name"}: what a name stands for
 *
 * Invariants (a SOURCE may be hostile; apply.h keeps what it keeps for our own archives):
 *  1. a source is only read: by the fds that were given, and by names beneath them without links;
 *  2. a layer that has its name is whole, durable, and of that content; it is never changed;
 *  3. a ref is written after all layers that it names. */
#ifndef BERTH_IMAGE_H
#define BERTH_IMAGE_H

#include "layer.h"
#include "tar.h"

enum image_kind {
	IMAGE_HOST, /* sources: the skeleton of image host, /usr, /var/lib/dpkg (may be missing) */
	IMAGE_DIRECTORY, /* a root's tree, or an OCI layout */
	IMAGE_FILE,      /* a root as a tar, or a docker-archive; both in any compression */
	IMAGE_KINDS
};

enum { IMAGE_LAYERS_MAX = 128, IMAGE_ENV_MAX_BYTES = 16384, IMAGE_JSON_MAX_BYTES = 4 << 20 };

struct image {
	struct digest content;
	struct digest layers[IMAGE_LAYERS_MAX]; /* the lowest first */
	size_t n_layers;
	uint64_t bytes, entries, dropped; /* dropped: device nodes and sockets */
	struct buf env;                   /* "NAME=VALUE\0" each */
	char cwd[256], user[128], home[256];
	uint32_t uid, gid;
};

#define auto_image __attribute__((cleanup(image_done))) struct image
void image_init(struct image *i);
void image_done(struct image *i);

/* All of an import. scratch: where temp files may be; sources: lent. */
int image_import(const struct layer_options *o, int scratch, enum image_kind kind,
		 const int *sources, size_t n, struct str name, struct image *out,
		 struct err *err) must_check;
/* Removes the refs of a name and of a content, and layers that nobody else has. */
int image_remove(const struct layer_options *o, struct str name, const struct digest *content,
		 const struct digest *layers, size_t n, struct err *err) must_check;

/* ---- image_layer.c: one layer each, added to `out` ---- */
int image_add_tar(const struct layer_options *o, const struct tar_source *from, struct image *out,
		  struct err *err) must_check;
/* prefix: where in the image it belongs, "" for its root. */
int image_add_tree(const struct layer_options *o, int scratch, int dir, const char *prefix,
		   struct image *out, struct err *err) must_check;
/* Below all others: the directories that every workspace has, and the image's WorkingDir. */
int image_add_places(const struct layer_options *o, struct image *out, struct err *err) must_check;

/* ---- image_oci.c ---- */
int image_add_layout(const struct layer_options *o, int dir, struct image *out,
		     struct err *err) must_check;
/* 1 it is one and was added, 0 it is another tar. */
int image_add_docker(const struct layer_options *o, int file, struct image *out,
		     struct err *err) must_check;

/* ---- image_config.c ---- */
/* Takes Env, WorkingDir and User from an OCI config, whose diff_ids must be those of the layers. */
int image_take_config(struct str json, struct image *i, struct err *err) must_check;
/* User by number or name, as the image's own /etc/passwd and group have it. */
int image_find_user(int cache, struct image *i, struct err *err) must_check;
/* The facts, and their digest as i->content. */
int image_format_facts(struct image *i, struct buf *out, struct err *err) must_check;

#endif
