/* OpenSSH user certificates (openssh: PROTOCOL.certkeys), decided on by the manager alone: libssh
 * has proven that the client holds the certified key, and has looked at nothing else of it.
 *
 * A certificate comes from a client that nobody knows yet. So, in this order:
 *  1. cert_split walks over lengths (bounded by the blob, which the message bounds) and reads
 * nothing;
 *  2. the caller finds its authority among those that he has: any other is refused here;
 *  3. cert_verify checks the authority's signature over every byte before it;
 *  4. cert_judge reads what the certificate says: by now the words of an authority that is trusted.
 * What a client without a certificate can reach in the manager is 1 and 2, and libcrypto's check of
 * a signature with a key that an operator has put there. */
#ifndef BERTH_CERT_H
#define BERTH_CERT_H

#include "base/buf.h"
#include "base/err.h"
#include "manager/sources.h"
#include "verbs/allowances.h"

struct cert {
	struct buf key;                     /* owned: the certified key, as a plain blob */
	uint64_t serial, after_s, before_s; /* wall clock; before_s UINT64_MAX: for ever */
	uint32_t type;
	bool in_hardware; /* the certified key */
	/* lent by the blob */
	struct str id, principals, critical, extensions, authority, bytes, signature;
};

void cert_done(struct cert *c);
/* Whether the blob says that it is a certificate. */
bool cert_is(struct str blob);
/* out is to be given to cert_done, whatever comes back. */
int cert_split(struct str blob, struct cert *out, struct err *err) must_check;
int cert_verify(const struct cert *c, struct err *err) must_check;

struct cert_wanted {
	const char *principals; /* some of these must be in it, "a,b"; NULL: user must */
	struct str user;
	const struct source *source;
	uint64_t now_s;
};

struct cert_granted {
	unsigned flags; /* enum allowance, by its extensions */
	bool touchless; /* no-touch-required */
};

/* Whether it lets this login in. */
int cert_judge(const struct cert *c, const struct cert_wanted *w, struct cert_granted *out,
	       struct err *err) must_check;

#endif
