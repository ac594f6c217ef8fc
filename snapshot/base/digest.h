/* sha256, and its text forms. An archive of its own, since it alone brings libcrypto. */
#ifndef BERTH_DIGEST_H
#define BERTH_DIGEST_H

#include "buf.h"
#include "err.h"

#include <stdbool.h>
#include <stdint.h>

enum { DIGEST_BYTES = 32 };

struct digest {
	uint8_t at[DIGEST_BYTES];
};

struct digest_text {
	char text[2 * DIGEST_BYTES + 1]; /* hex, without "sha256:" */
};

struct digest_text digest_text(const struct digest *d);
/* Accepts 64 hex digits, with or without "sha256:" before them. */
int digest_parse(struct str text, struct digest *out, struct err *err) must_check;
bool digest_equal(const struct digest *a, const struct digest *b);

struct hasher; /* one running sha256; heap */
struct hasher *hasher_new(void);
void hasher_free(struct hasher *h);
AUTO_OF(hasher)
void hasher_add(struct hasher *h, const void *bytes, size_t n);
/* The digest of all that was added so far; the hasher goes on. */
struct digest hasher_sum(const struct hasher *h);
struct digest digest_of(struct str bytes);

#endif
