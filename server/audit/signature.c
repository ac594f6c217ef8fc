#include "signature.h"
#include "base/num.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdlib.h>

enum {
	KEY_BYTES = 32,
	BLOB_BYTES = 51, /* a multiple of 3: base64 without padding, one spelling */
	TEXT_MAX_BYTES = 8192,
};
#define BEGINNING "-----BEGIN OPENSSH PRIVATE KEY-----"
#define ENDING    "-----END OPENSSH PRIVATE KEY-----"
#define MAGIC     "openssh-key-v1"
#define KIND      "ssh-ed25519"
#define SIG_FIELD ",\"sig\":\""

struct signature_key {
	EVP_PKEY *key; /* owned */
	char public[SIGNATURE_KEY_CHARS + 1];
};

/* ---- an OpenSSH private key (openssh: PROTOCOL.key) ---- */

/* A string of RFC 4251: u32 length, bytes. */
static bool
take_string(struct str *rest, struct str *out)
{
	if (rest->len < 4)
		return false;
	const unsigned char *p = (const unsigned char *)rest->at;
	const size_t n = (size_t)p[0] << 24 | (size_t)p[1] << 16 | (size_t)p[2] << 8 | p[3];
	if (n > rest->len - 4)
		return false;
	*out = (struct str){rest->at + 4, n};
	rest->at += 4 + n;
	rest->len -= 4 + n;
	return true;
}

static bool
take_number(struct str *rest, uint32_t *out)
{
	if (rest->len < 4)
		return false;
	const unsigned char *p = (const unsigned char *)rest->at;
	*out = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
	rest->at += 4;
	rest->len -= 4;
	return true;
}

/* base64 over lines into `out`; its length, or -1. */
static int
decode(struct str text, unsigned char *out)
{
	auto_buf digits = BUF_MAX(TEXT_MAX_BYTES);
	struct str line;

	if (text.len > TEXT_MAX_BYTES || !str_cut(&text, '\n', &line) || !str_is(line, BEGINNING))
		return -1;
	for (;;) {
		if (!str_cut(&text, '\n', &line))
			return -1;
		if (str_is(line, ENDING))
			break;
		buf_str(&digits, line);
	}
	if (buf_bad(&digits) || digits.len == 0 || digits.len % 4)
		return -1;
	int n = EVP_DecodeBlock(out, (const unsigned char *)digits.at, (int)digits.len);
	for (size_t i = digits.len; n > 0 && i > digits.len - 2 && digits.at[i - 1] == '='; i--)
		n--;
	OPENSSL_cleanse(digits.at, digits.len);
	return n;
}

/* The 32 bytes of the seed and of the public key, views into `rest`. */
static int
find_halves(struct str rest, struct str *seed, struct str *public, struct err *err)
{
	struct str cipher, kdf, options, outside, inside, kind, pair;
	uint32_t keys, check[2];

	if (rest.len < sizeof MAGIC || memcmp(rest.at, MAGIC, sizeof MAGIC) != 0)
		return err_set(err, ERR_CORRUPT, "not an OpenSSH private key");
	rest.at += sizeof MAGIC;
	rest.len -= sizeof MAGIC;
	if (!take_string(&rest, &cipher) || !take_string(&rest, &kdf) ||
	    !take_string(&rest, &options) || !take_number(&rest, &keys) || keys != 1 ||
	    !take_string(&rest, &outside) || !take_string(&rest, &inside))
		return err_set(err, ERR_CORRUPT, "not an OpenSSH private key");
	if (!str_is(cipher, "none"))
		return err_set(err, ERR_CONFIG, "it has a passphrase");
	if (!take_number(&inside, &check[0]) || !take_number(&inside, &check[1]) ||
	    check[0] != check[1] || !take_string(&inside, &kind))
		return err_set(err, ERR_CORRUPT, "not an OpenSSH private key");
	if (!str_is(kind, KIND))
		return err_set(err, ERR_CONFIG, "not an ed25519 key");
	if (!take_string(&inside, public) || public->len != KEY_BYTES ||
	    !take_string(&inside, &pair) || pair.len != 2 * KEY_BYTES ||
	    memcmp(pair.at + KEY_BYTES, public->at, KEY_BYTES) != 0)
		return err_set(err, ERR_CORRUPT, "not an OpenSSH private key");
	*seed = (struct str){pair.at, KEY_BYTES};
	return 0;
}

static void
format_public(struct str public, char out[SIGNATURE_KEY_CHARS + 1])
{
	unsigned char blob[BLOB_BYTES] = {0};

	blob[3] = sizeof KIND - 1;
	memcpy(blob + 4, KIND, sizeof KIND - 1);
	blob[4 + sizeof KIND - 1 + 3] = KEY_BYTES;
	memcpy(blob + BLOB_BYTES - KEY_BYTES, public.at, KEY_BYTES);
	EVP_EncodeBlock((unsigned char *)out, blob, sizeof blob);
}

struct signature_key *
signature_key_load(struct str text, struct err *err)
{
	auto_free unsigned char *raw = xnew(1, TEXT_MAX_BYTES);
	auto_of(signature_key) struct signature_key *k = xnew(1, sizeof *k);
	struct str seed = {NULL, 0}, public = {NULL, 0};

	const int n = decode(text, raw);
	if (n < 0) {
		err_set(err, ERR_CORRUPT, "not an OpenSSH private key");
		return NULL;
	}
	if (find_halves((struct str){(const char *)raw, (size_t)n}, &seed, &public, err) < 0) {
		OPENSSL_cleanse(raw, TEXT_MAX_BYTES);
		return NULL;
	}
	format_public(public, k->public);
	k->key = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL,
					      (const unsigned char *)seed.at, KEY_BYTES);
	OPENSSL_cleanse(raw, TEXT_MAX_BYTES);
	if (!k->key) {
		err_set(err, ERR_INTERNAL, "libcrypto does not take the key");
		return NULL;
	}
	return steal(&k);
}

void
signature_key_free(struct signature_key *k)
{
	if (!k)
		return;
	EVP_PKEY_free(k->key);
	free(k);
}

const char *
signature_key_public(const struct signature_key *k)
{
	return k->public;
}

/* ---- heads ---- */

static int
sign(const struct signature_key *k, struct str bytes, uint8_t out[SIGNATURE_BYTES])
{
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	size_t n = SIGNATURE_BYTES;

	const bool ok = ctx && EVP_DigestSignInit(ctx, NULL, NULL, NULL, k->key) == 1 &&
			EVP_DigestSign(ctx, out, &n, (const unsigned char *)bytes.at, bytes.len) == 1 &&
			n == SIGNATURE_BYTES;
	EVP_MD_CTX_free(ctx);
	return ok ? 0 : -1;
}

int
signature_head_fields(struct buf *out, const struct signature_key *k, const struct chain *c,
		      uint64_t real_ns, struct err *err)
{
	auto_buf text = BUF_MAX(1024);
	auto_buf key = BUF_MAX(128);
	uint8_t sum[SIGNATURE_BYTES];
	char hex[2 * SIGNATURE_BYTES + 1];

	buf_fmt(&key, "\"key\":\"%s\"", k->public);
	buf_text(&text, CHAIN_SIGNED);
	chain_format(&text, c, real_ns, "head", buf_view(&key));
	if (buf_bad(&text) || text.len < 2)
		return err_set(err, ERR_INTERNAL, "a head of too many bytes");
	if (sign(k, (struct str){text.at, text.len - 2}, sum) < 0) /* without its "}\n" */
		return err_set(err, ERR_INTERNAL, "libcrypto does not sign");
	hex_format(sum, sizeof sum, hex);
	buf_str(out, buf_view(&key));
	buf_fmt(out, SIG_FIELD "%s\"", hex);
	return 0;
}

static int
verify(const char *public, struct str bytes, const uint8_t sum[SIGNATURE_BYTES])
{
	unsigned char blob[BLOB_BYTES + 3], back[SIGNATURE_KEY_CHARS + 1];
	char again[SIGNATURE_KEY_CHARS + 1];

	if (EVP_DecodeBlock(blob, (const unsigned char *)public, SIGNATURE_KEY_CHARS) != BLOB_BYTES)
		return -1;
	EVP_EncodeBlock(back, blob, BLOB_BYTES);
	format_public((struct str){(const char *)blob + BLOB_BYTES - KEY_BYTES, KEY_BYTES}, again);
	if (strcmp(again, public) != 0 || strcmp((const char *)back, public) != 0)
		return -1; /* not an ed25519 key, or another spelling of one */
	EVP_PKEY *key = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL,
						    blob + BLOB_BYTES - KEY_BYTES, KEY_BYTES);
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	const bool ok = key && ctx && EVP_DigestVerifyInit(ctx, NULL, NULL, NULL, key) == 1 &&
			EVP_DigestVerify(ctx, sum, SIGNATURE_BYTES, (const unsigned char *)bytes.at,
					 bytes.len) == 1;
	EVP_MD_CTX_free(ctx);
	EVP_PKEY_free(key);
	return ok ? 0 : -1;
}

int
signature_head_check(struct str line, char out_key[SIGNATURE_KEY_CHARS + 1], struct err *err)
{
	enum { SIG_BYTES = sizeof SIG_FIELD - 1 + 2 * SIGNATURE_BYTES + 2 }; /* with "} */
	const size_t key_at = sizeof "\"key\":\"" - 1;
	char key[SIGNATURE_KEY_CHARS + 1], hex[2 * SIGNATURE_BYTES + 1];
	uint8_t sum[SIGNATURE_BYTES];
	struct chain_line l;
	auto_buf text = BUF_MAX(1024);

	if (chain_parse(line, &l, err) < 0)
		return -1;
	if (!str_is(l.kind, "head") || line.len > 900 || line.len < SIG_BYTES ||
	    l.fields.len != key_at + SIGNATURE_KEY_CHARS + 1 + SIG_BYTES - 1 ||
	    !str_starts(l.fields, "\"key\":\""))
		return err_set(err, ERR_CORRUPT, "it is not a head");
	const struct str tail = {line.at + line.len - SIG_BYTES, SIG_BYTES};
	const struct str digits = {tail.at + sizeof SIG_FIELD - 1, 2 * SIGNATURE_BYTES};
	if (!str_starts(tail, SIG_FIELD) || memcmp(tail.at + SIG_BYTES - 2, "\"}", 2) != 0 ||
	    hex_parse(digits, sum, sizeof sum, err) < 0)
		return err_set(err, ERR_CORRUPT, "it is not a head");
	hex_format(sum, sizeof sum, hex);
	memcpy(key, l.fields.at + key_at, SIGNATURE_KEY_CHARS);
	key[SIGNATURE_KEY_CHARS] = '\0';
	buf_text(&text, CHAIN_SIGNED);
	buf_add(&text, line.at, line.len - SIG_BYTES);
	if (!str_is(digits, hex) || buf_bad(&text) || verify(key, buf_view(&text), sum) < 0)
		return err_set(err, ERR_CORRUPT, "its signature is not right");
	memcpy(out_key, key, sizeof key);
	return 0;
}
