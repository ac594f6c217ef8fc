/* Heads of the audit log: ed25519 by the host key. The private key is read from the OpenSSH text that
 * ssh-keygen made, by a small bounded parser: a second copy of a secret in another form would have to
 * be made, guarded and kept the same. libcrypto does the curve; who links this links that. */
#ifndef BERTH_SIGNATURE_H
#define BERTH_SIGNATURE_H

#include "audit/chain.h"

enum { SIGNATURE_BYTES = 64, SIGNATURE_KEY_CHARS = 68 };

struct signature_key; /* heap; holds a secret */
/* text: an OpenSSH private key file, ed25519, without a passphrase. CORRUPT, CONFIG (another kind) */
struct signature_key *signature_key_load(struct str text, struct err *err);
void signature_key_free(struct signature_key *k);
AUTO_OF(signature_key)
/* Its public half as in a .pub file: the base64 word. */
const char *signature_key_public(const struct signature_key *k);

/* The fields of a head that follows c at this time; the line is made of them by chain_format. */
int signature_head_fields(struct buf *out, const struct signature_key *k, const struct chain *c,
			  uint64_t real_ns, struct err *err) must_check;
/* Whether a line of kind head is signed by the key that it names.
 *   out_key   that key's base64 word
 *   CORRUPT   it is not */
int signature_head_check(struct str line, char out_key[SIGNATURE_KEY_CHARS + 1],
			 struct err *err) must_check;

#endif
