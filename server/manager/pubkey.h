/* Public keys as blobs (RFC 4253 section 6.6): whether one is whole and of a kind that may come in,
 * its fingerprint, and whether it has signed something.
 *
 * Invariants
 *  1. a blob that pubkey_check took has no byte left over, and is the only spelling of its key;
 *  2. never DSA, never RSA of fewer than 2048 bits, never a signature over SHA-1. */
#ifndef BERTH_PUBKEY_H
#define BERTH_PUBKEY_H

#include "base/buf.h"
#include "base/err.h"

enum {
	PUBKEY_BLOB_MAX_BYTES = 12288, /* a certificate of RSA 16384 by RSA 16384 has 6.5 KB */
	PUBKEY_TEXT_MAX_BYTES = 16384,
	PUBKEY_FINGERPRINT_BYTES = 64, /* "SHA256:" and 43 digits */
};

struct pubkey_kind {
	const char *name, *certificate; /* the kind's names; certificate: of a certified key */
	enum pubkey_family { PUBKEY_ED25519, PUBKEY_ECDSA, PUBKEY_RSA } family;
	const char *curve, *group; /* of ECDSA: names of SSH and of libcrypto, ... */
	size_t point_bytes;        /* ... an uncompressed point */
	bool in_hardware;          /* sk-: a FIDO authenticator holds it */
};

/* NULL: no such kind. */
const struct pubkey_kind *pubkey_find_kind(struct str name);
const struct pubkey_kind *pubkey_find_certificate(struct str name);

/* Fields off the front of *rest (RFC 4251 section 5); false when they are not there. */
bool pubkey_take_string(struct str *rest, struct str *out);
bool pubkey_take_u32(struct str *rest, uint32_t *out);
bool pubkey_take_u64(struct str *rest, uint64_t *out);
void pubkey_put_string(struct buf *out, struct str s);
/* The fields of a key of this kind, its name not among them, each of the size that it must have.
 *   out   what was taken, as one piece */
int pubkey_take_fields(const struct pubkey_kind *kind, struct str *rest, struct str *out,
		       struct err *err) must_check;

/* The blob that base64 text stands for; one spelling alone is taken. */
int pubkey_decode(struct str base64, struct buf *out, struct err *err) must_check;
int pubkey_check(struct str blob, struct err *err) must_check;
/* As ssh-keygen -l prints it: of any blob. */
void pubkey_fingerprint(struct str blob, char out[PUBKEY_FINGERPRINT_BYTES]);
/* Whether `signature` (an SSH signature blob) is the key's over `bytes`. DENIED: it is not. */
int pubkey_verify(struct str key, struct str bytes, struct str signature,
		  struct err *err) must_check;

#endif
