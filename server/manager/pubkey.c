#include "pubkey.h"
#include "base/digest.h"

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <openssl/ecdsa.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>
#include <openssl/params.h>
#include <stdio.h>

enum {
	ED25519_BYTES = 32,
	ED25519_SIGNATURE_BYTES = 64,
	RSA_MIN_BITS = 2048,
	RSA_MAX_BITS = 16384,
	RSA_EXPONENT_MAX_BYTES = 8,
	INTEGER_MAX_BYTES = 67, /* of an ECDSA signature over the largest curve */
};

#define CERTIFIED "-cert-v01@openssh.com"
static const struct pubkey_kind kinds[] = {
    {"ssh-ed25519", "ssh-ed25519" CERTIFIED, PUBKEY_ED25519, NULL, NULL, 0, false},
    {"ecdsa-sha2-nistp256", "ecdsa-sha2-nistp256" CERTIFIED, PUBKEY_ECDSA, "nistp256", "P-256", 65,
     false},
    {"ecdsa-sha2-nistp384", "ecdsa-sha2-nistp384" CERTIFIED, PUBKEY_ECDSA, "nistp384", "P-384", 97,
     false},
    {"ecdsa-sha2-nistp521", "ecdsa-sha2-nistp521" CERTIFIED, PUBKEY_ECDSA, "nistp521", "P-521", 133,
     false},
    {"ssh-rsa", "ssh-rsa" CERTIFIED, PUBKEY_RSA, NULL, NULL, 0, false},
    {"sk-ssh-ed25519@openssh.com", "sk-ssh-ed25519" CERTIFIED, PUBKEY_ED25519, NULL, NULL, 0, true},
    {"sk-ecdsa-sha2-nistp256@openssh.com", "sk-ecdsa-sha2-nistp256" CERTIFIED, PUBKEY_ECDSA,
     "nistp256", "P-256", 65, true},
};

const struct pubkey_kind *
pubkey_find_kind(struct str name)
{
	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
		if (str_is(name, kinds[i].name))
			return &kinds[i];
	return NULL;
}

const struct pubkey_kind *
pubkey_find_certificate(struct str name)
{
	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
		if (str_is(name, kinds[i].certificate))
			return &kinds[i];
	return NULL;
}

/* ---- fields ---- */

static struct str
skip(struct str s, size_t n)
{
	return (struct str){s.at + n, s.len - n};
}

bool
pubkey_take_u32(struct str *rest, uint32_t *out)
{
	if (rest->len < 4)
		return false;
	const unsigned char *p = (const unsigned char *)rest->at;
	*out = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
	*rest = skip(*rest, 4);
	return true;
}

bool
pubkey_take_u64(struct str *rest, uint64_t *out)
{
	uint32_t high, low;

	if (rest->len < 8 || !pubkey_take_u32(rest, &high) || !pubkey_take_u32(rest, &low))
		return false;
	*out = (uint64_t)high << 32 | low;
	return true;
}

bool
pubkey_take_string(struct str *rest, struct str *out)
{
	struct str after = *rest;
	uint32_t n;

	if (!pubkey_take_u32(&after, &n) || n > after.len)
		return false;
	*out = (struct str){after.at, n};
	*rest = skip(after, n);
	return true;
}

void
pubkey_put_string(struct buf *out, struct str s)
{
	const unsigned char n[] = {(unsigned char)(s.len >> 24), (unsigned char)(s.len >> 16),
				   (unsigned char)(s.len >> 8), (unsigned char)s.len};

	buf_add(out, n, sizeof n);
	buf_str(out, s);
}

/* A positive integer in its shortest form; *out without the zero that keeps it positive. */
static bool
take_integer(struct str *rest, struct str *out)
{
	if (!pubkey_take_string(rest, out) || out->len == 0)
		return false;
	const unsigned char *p = (const unsigned char *)out->at;
	if (p[0] & 0x80)
		return false;
	if (p[0] != 0)
		return true;
	if (out->len == 1 || !(p[1] & 0x80))
		return false;
	*out = skip(*out, 1);
	return true;
}

static size_t
bits_of(struct str integer)
{
	size_t bits = integer.len * 8;

	for (unsigned char c = (unsigned char)integer.at[0]; !(c & 0x80);
	     c = (unsigned char)(c << 1))
		bits--;
	return bits;
}

static int
take_rsa(struct str *rest, struct err *err)
{
	struct str e, n;

	if (!take_integer(rest, &e) || !take_integer(rest, &n))
		return err_set(err, ERR_CORRUPT, "an RSA key that is not whole");
	if (e.len > RSA_EXPONENT_MAX_BYTES || !(e.at[e.len - 1] & 1) || bits_of(e) < 2)
		return err_set(err, ERR_CORRUPT, "an RSA key with a bad exponent");
	if (bits_of(n) < RSA_MIN_BITS || bits_of(n) > RSA_MAX_BITS)
		return err_set(err, ERR_DENIED, "an RSA key of %zu bits, not of %d to %d",
			       bits_of(n), RSA_MIN_BITS, RSA_MAX_BITS);
	return 0;
}

int
pubkey_take_fields(const struct pubkey_kind *kind, struct str *rest, struct str *out,
		   struct err *err)
{
	const struct str before = *rest;
	struct str field;
	bool good = true;

	switch (kind->family) {
	case PUBKEY_ED25519:
		good = pubkey_take_string(rest, &field) && field.len == ED25519_BYTES;
		break;
	case PUBKEY_ECDSA:
		good = pubkey_take_string(rest, &field) && str_is(field, kind->curve) &&
		       pubkey_take_string(rest, &field) && field.len == kind->point_bytes &&
		       field.at[0] == 4;
		break;
	case PUBKEY_RSA:
		if (take_rsa(rest, err) < 0)
			return -1;
		break;
	}
	if (good && kind->in_hardware)
		good = pubkey_take_string(rest, &field) && field.len > 0;
	if (!good)
		return err_set(err, ERR_CORRUPT, "a key of kind %s that is not whole", kind->name);
	*out = (struct str){before.at, before.len - rest->len};
	return 0;
}

/* ---- a whole key ---- */

int
pubkey_decode(struct str base64, struct buf *out, struct err *err)
{
	size_t digits = base64.len, padding = 0;

	while (padding < 2 && digits && base64.at[digits - 1] == '=') {
		digits--;
		padding++;
	}
	if (base64.len == 0 || base64.len % 4 || base64.len > PUBKEY_TEXT_MAX_BYTES)
		return err_set(err, ERR_CORRUPT, "not the base64 of a key");
	for (size_t i = 0; i < digits; i++) {
		const char c = base64.at[i];
		if (!((c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
		      c == '+' || c == '/'))
			return err_set(err, ERR_CORRUPT, "not the base64 of a key");
	}
	buf_clear(out);
	unsigned char *room = (unsigned char *)buf_room(out, base64.len / 4 * 3);
	if (!room)
		return err_set(err, ERR_CORRUPT, "a key of more than %d bytes",
			       PUBKEY_BLOB_MAX_BYTES);
	const int n = EVP_DecodeBlock(room, (const unsigned char *)base64.at, (int)base64.len);
	if (n < 0 || (size_t)n < padding)
		return err_set(err, ERR_CORRUPT, "not the base64 of a key");
	out->len += (size_t)n - padding;
	return 0;
}

int
pubkey_check(struct str blob, struct err *err)
{
	struct str rest = blob, name, fields;

	if (!pubkey_take_string(&rest, &name))
		return err_set(err, ERR_CORRUPT, "a key that is not whole");
	const struct pubkey_kind *kind = pubkey_find_kind(name);
	if (!kind)
		return err_set(err, ERR_DENIED, "a key of a kind that is not taken");
	if (pubkey_take_fields(kind, &rest, &fields, err) < 0)
		return -1;
	if (rest.len)
		return err_set(err, ERR_CORRUPT, "a key with %zu bytes behind it", rest.len);
	return 0;
}

void
pubkey_fingerprint(struct str blob, char out[PUBKEY_FINGERPRINT_BYTES])
{
	const struct digest d = digest_of(blob);
	unsigned char text[48];

	EVP_EncodeBlock(text, d.at, DIGEST_BYTES);
	text[43] = '\0'; /* 32 bytes are 43 digits and one = */
	snprintf(out, PUBKEY_FINGERPRINT_BYTES, "SHA256:%s", (const char *)text);
}

/* ---- signatures ---- */

static EVP_PKEY *
from_params(const char *kind, OSSL_PARAM *params)
{
	EVP_PKEY_CTX *ctx = params ? EVP_PKEY_CTX_new_from_name(NULL, kind, NULL) : NULL;
	EVP_PKEY *key = NULL;

	if (ctx && EVP_PKEY_fromdata_init(ctx) == 1 &&
	    EVP_PKEY_fromdata(ctx, &key, EVP_PKEY_PUBLIC_KEY, params) != 1)
		key = NULL;
	EVP_PKEY_CTX_free(ctx);
	return key;
}

static EVP_PKEY *
rsa_key(struct str e_bytes, struct str n_bytes)
{
	OSSL_PARAM_BLD *build = OSSL_PARAM_BLD_new();
	BIGNUM *e = BN_bin2bn((const unsigned char *)e_bytes.at, (int)e_bytes.len, NULL);
	BIGNUM *n = BN_bin2bn((const unsigned char *)n_bytes.at, (int)n_bytes.len, NULL);
	OSSL_PARAM *params = NULL;

	if (build && e && n && OSSL_PARAM_BLD_push_BN(build, OSSL_PKEY_PARAM_RSA_N, n) &&
	    OSSL_PARAM_BLD_push_BN(build, OSSL_PKEY_PARAM_RSA_E, e))
		params = OSSL_PARAM_BLD_to_param(build);
	EVP_PKEY *key = from_params("RSA", params);
	OSSL_PARAM_free(params);
	OSSL_PARAM_BLD_free(build);
	BN_free(e);
	BN_free(n);
	return key;
}

static EVP_PKEY *
ecdsa_key(const char *group, struct str point)
{
	OSSL_PARAM_BLD *build = OSSL_PARAM_BLD_new();
	OSSL_PARAM *params = NULL;

	if (build && OSSL_PARAM_BLD_push_utf8_string(build, OSSL_PKEY_PARAM_GROUP_NAME, group, 0) &&
	    OSSL_PARAM_BLD_push_octet_string(build, OSSL_PKEY_PARAM_PUB_KEY, point.at, point.len))
		params = OSSL_PARAM_BLD_to_param(build);
	EVP_PKEY *key = from_params("EC", params);
	OSSL_PARAM_free(params);
	OSSL_PARAM_BLD_free(build);
	return key;
}

static EVP_PKEY *
open_key(const struct pubkey_kind *kind, struct str fields)
{
	struct str a, b;

	if (kind->family == PUBKEY_RSA)
		return take_integer(&fields, &a) && take_integer(&fields, &b) ? rsa_key(a, b)
									      : NULL;
	if (!pubkey_take_string(&fields, &a))
		return NULL;
	if (kind->family == PUBKEY_ED25519)
		return EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL,
						   (const unsigned char *)a.at, a.len);
	return pubkey_take_string(&fields, &b) ? ecdsa_key(kind->group, b) : NULL;
}

/* The two integers of an ECDSA signature, as DER; its length, 0 when they are none. */
static size_t
ecdsa_der(struct str signature, unsigned char *out, size_t out_bytes)
{
	struct str r, s;

	if (!take_integer(&signature, &r) || !take_integer(&signature, &s) || signature.len ||
	    r.len > INTEGER_MAX_BYTES || s.len > INTEGER_MAX_BYTES)
		return 0;
	ECDSA_SIG *sig = ECDSA_SIG_new();
	BIGNUM *big_r = BN_bin2bn((const unsigned char *)r.at, (int)r.len, NULL);
	BIGNUM *big_s = BN_bin2bn((const unsigned char *)s.at, (int)s.len, NULL);
	int n = 0;
	if (sig && big_r && big_s && ECDSA_SIG_set0(sig, big_r, big_s) == 1) {
		big_r = big_s = NULL; /* sig has them */
		n = i2d_ECDSA_SIG(sig, NULL);
		n = n > 0 && (size_t)n <= out_bytes ? i2d_ECDSA_SIG(sig, &out) : 0;
	}
	BN_free(big_r);
	BN_free(big_s);
	ECDSA_SIG_free(sig);
	return n > 0 ? (size_t)n : 0;
}

/* The hash that a signature of this name goes over, for a key of this kind. */
static bool
find_hash(const struct pubkey_kind *kind, struct str name, const EVP_MD **out)
{
	*out = NULL;
	switch (kind->family) {
	case PUBKEY_ED25519:
		return str_is(name, kind->name);
	case PUBKEY_ECDSA:
		*out = kind->point_bytes == 65   ? EVP_sha256()
		       : kind->point_bytes == 97 ? EVP_sha384()
						 : EVP_sha512();
		return str_is(name, kind->name);
	case PUBKEY_RSA:
		*out = str_is(name, "rsa-sha2-512") ? EVP_sha512() : EVP_sha256();
		return str_is(name, "rsa-sha2-512") || str_is(name, "rsa-sha2-256");
	}
	return false;
}

static bool
verifies(EVP_PKEY *key, const EVP_MD *hash, struct str bytes, struct str signature)
{
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	const bool good = ctx && key && EVP_DigestVerifyInit(ctx, NULL, hash, NULL, key) == 1 &&
			  EVP_DigestVerify(ctx, (const unsigned char *)signature.at, signature.len,
					   (const unsigned char *)bytes.at, bytes.len) == 1;

	EVP_MD_CTX_free(ctx);
	return good;
}

int
pubkey_verify(struct str key, struct str bytes, struct str signature, struct err *err)
{
	struct str name, fields, kind_name, value;
	unsigned char der[2 * INTEGER_MAX_BYTES + 16];
	const EVP_MD *hash;

	if (pubkey_check(key, err) < 0)
		return -1;
	(void)!pubkey_take_string(&key, &kind_name); /* it was checked */
	const struct pubkey_kind *kind = pubkey_find_kind(kind_name);
	if (pubkey_take_fields(kind, &key, &fields, err) < 0)
		return -1;
	if (kind->in_hardware)
		return err_set(err, ERR_DENIED, "signed by a key in hardware: not supported");
	if (!pubkey_take_string(&signature, &name) || !pubkey_take_string(&signature, &value) ||
	    signature.len)
		return err_set(err, ERR_CORRUPT, "a signature that is not whole");
	if (!find_hash(kind, name, &hash))
		return err_set(err, ERR_DENIED, "signed by %.*s, which is not taken for %s",
			       (int)(name.len > 40 ? 40 : name.len), name.at, kind->name);
	if (kind->family == PUBKEY_ECDSA) {
		const size_t n = ecdsa_der(value, der, sizeof der);
		value = (struct str){(const char *)der, n};
	}
	if (kind->family == PUBKEY_ED25519 && value.len != ED25519_SIGNATURE_BYTES)
		return err_set(err, ERR_CORRUPT, "a signature that is not whole");
	EVP_PKEY *pkey = open_key(kind, fields);
	const bool good = value.len && verifies(pkey, hash, bytes, value);
	EVP_PKEY_free(pkey);
	return good ? 0 : err_set(err, ERR_DENIED, "the signature is not that key's");
}
