#include "digest.h"
#include "num.h"

#include <assert.h>
#include <openssl/evp.h>
#include <stdlib.h>

struct hasher {
	EVP_MD_CTX *ctx; /* owned */
	EVP_MD_CTX *sum; /* owned; scratch for hasher_sum */
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
	h->ctx = EVP_MD_CTX_new();
	h->sum = EVP_MD_CTX_new();
	const int ok = h->ctx && h->sum && EVP_DigestInit_ex(h->ctx, EVP_sha256(), NULL);
	if (!ok)
		abort(); /* no memory, or a libcrypto without sha256 */
	return h;
}

void
hasher_free(struct hasher *h)
{
	if (!h)
		return;
	EVP_MD_CTX_free(h->ctx);
	EVP_MD_CTX_free(h->sum);
	free(h);
}

void
hasher_add(struct hasher *h, const void *bytes, size_t n)
{
	const int ok = EVP_DigestUpdate(h->ctx, bytes, n);
	assert(ok);
}

struct digest
hasher_sum(const struct hasher *h)
{
	struct digest d;
	const int ok = EVP_MD_CTX_copy_ex(h->sum, h->ctx) && EVP_DigestFinal_ex(h->sum, d.at, NULL);
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
