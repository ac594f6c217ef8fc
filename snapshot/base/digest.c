/* By libcrypto's sha256 itself, not by its EVP: the same code and speed, but EVP's first use fetches a
 * provider, which takes 1 ms and half a megabyte of each process that hashes; and what is so small
 * can be linked statically (a keeper's start is part of a session's). */
#define OPENSSL_SUPPRESS_DEPRECATED
#include "digest.h"
#include "num.h"

#include <assert.h>
#include <openssl/sha.h>
#include <stdlib.h>

struct hasher {
	SHA256_CTX ctx;
};

struct digest_text
digest_text(const struct digest *d)
{
	struct digest_text out;
	hex_format(d->at, sizeof d->at, out.text);
	return out;
}

int
digest_parse(struct str text, struct digest *out, struct err *err)
{
	struct digest d;
	if (str_starts(text, "sha256:")) {
		text.at += 7;
		text.len -= 7;
	}
	if (hex_parse(text, d.at, sizeof d.at, err) < 0)
		return err_add(err, "digest");
	*out = d;
	return 0;
}

bool
digest_equal(const struct digest *a, const struct digest *b)
{
	return memcmp(a->at, b->at, sizeof a->at) == 0;
}

struct hasher *
hasher_new(void)
{
	struct hasher *h = xnew(1, sizeof *h);
	const int ok = SHA256_Init(&h->ctx);
	assert(ok);
	return h;
}

void
hasher_free(struct hasher *h)
{
	free(h);
}

void
hasher_add(struct hasher *h, const void *bytes, size_t n)
{
	const int ok = SHA256_Update(&h->ctx, bytes, n);
	assert(ok);
}

struct digest
hasher_sum(const struct hasher *h)
{
	struct digest d;
	SHA256_CTX copy = h->ctx;
	const int ok = SHA256_Final(d.at, &copy);
	assert(ok);
	return d;
}

struct digest
digest_of(struct str bytes)
{
	auto_of(hasher) struct hasher *h = hasher_new();
	hasher_add(h, bytes.at, bytes.len);
	return hasher_sum(h);
}
