/* The index's rows of images. What an image is never changes: its row goes by its content, and a
 * name only points to it. */
#ifndef BERTH_IMAGE_ROWS_H
#define BERTH_IMAGE_ROWS_H

#include "rows.h"

enum { IMAGE_ROW_LAYERS_MAX = 128, IMAGE_ROW_ENV_BYTES = 16384 };

struct image_row {
	char content[80];                           /* "image:<64 hex>" */
	char name[64];                              /* empty: none leads to it any more */
	struct digest layers[IMAGE_ROW_LAYERS_MAX]; /* the lowest first */
	size_t n_layers;
	char env[IMAGE_ROW_ENV_BYTES]; /* "NAME=VALUE\0" each */
	size_t env_bytes;
	char cwd[257], user[129], home[257];
	unsigned uid, gid;
	uint64_t bytes, entries, dropped, created_ns;
};

typedef int (*image_row_fn)(void *ctx, const struct image_row *row, struct err *err);

/* The image, and its name for it; both in the caller's transaction. */
int image_rows_put(struct index *ix, const struct image_row *row, struct err *err) must_check;
/* By name, or by content where that begins with "image:". 1 found, 0 absent. */
int image_rows_find(struct index *ix, const char *ref, struct image_row *out,
		    struct err *err) must_check;
/* All names with their images, by name; then images without one. */
int image_rows_list(struct index *ix, image_row_fn fn, void *ctx, struct err *err) must_check;
int image_rows_drop_name(struct index *ix, const char *name, struct err *err) must_check;
int image_rows_drop(struct index *ix, const char *content, struct err *err) must_check;

#endif
