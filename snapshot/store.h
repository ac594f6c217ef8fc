/* Archive storage behind one interface, so that an object store can take the place of a directory.
 * What is stored is known by its digest before the put, and never changes.
 *
 * Errors: ABSENT, AGAIN (try again), DENIED (refused), NO_SPACE (full); CORRUPT for bytes that are
 * not what their digest says. */
#ifndef BERTH_STORE_H
#define BERTH_STORE_H

#include "base/digest.h"

struct store {
	const char *name;
	/* size bytes from fd's start, which must have this digest. Durable when it returns. */
	int (*put)(int store, const struct digest *d, uint64_t size, int fd, struct err *err);
	/* n bytes from `at`, all of them. */
	int (*get_range)(int store, const struct digest *d, uint64_t at, void *out, size_t n,
			 struct err *err);
	int (*stat)(int store, const struct digest *d, uint64_t *out_size, struct err *err);
	/* fn for each blob, in no order, until it returns other than 0. */
	int (*list)(int store, int (*fn)(void *ctx, const struct digest *d, struct err *err),
		    void *ctx, struct err *err);
	/* Absent is success. */
	int (*remove)(int store, const struct digest *d, struct err *err);
	/* Small named objects (refs): replaced whole. */
	int (*put_object)(int store, const char *name, struct str bytes, struct err *err);
	int (*get_object)(int store, const char *name, struct buf *out, struct err *err);
};

/* One node: the directory of blob.h. */
extern const struct store store_directory;

#endif
