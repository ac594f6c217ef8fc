/* STATE/keys/revoked_keys: keys, certificates and authorities that are not let in any more,
 * whatever else says that they may. Lines, as ssh-keygen(1) describes them for revocation lists:
 *
 *   TYPE BASE64 [COMMENT]    the key itself, what it is certified as, and all that it has signed
 *   sha256: SHA256:…         the same by its fingerprint (also `hash:`)
 *   serial: N or N-M         certificates with these serials, of any authority
 *   id: TEXT                 certificates with this key id, of any authority
 *
 * A list that cannot be understood as a whole lets nobody in: each word that is skipped could be
 * what keeps somebody out. Binary lists (KRL) are not read. */
#ifndef BERTH_REVOKED_H
#define BERTH_REVOKED_H

#include "base/buf.h"
#include "base/err.h"

struct revoked {
	char (*prints)[64]; /* owned: fingerprints */
	size_t n_prints;
	struct serials {
		uint64_t first, last;
	} * serials; /* owned */
	size_t n_serials;
	char **ids; /* owned */
	size_t n_ids;
	struct err why; /* code NONE: it was understood */
};

void revoked_done(struct revoked *r);
/* The whole file. A failure is kept in out->why, and from then on everything is revoked. */
void revoked_parse(struct str text, struct revoked *out);
/* DENIED: this key (a blob) is; or the list was not understood. */
int revoked_check_key(const struct revoked *r, struct str blob, struct err *err) must_check;
int revoked_check_certificate(const struct revoked *r, uint64_t serial, struct str id,
			      struct err *err) must_check;

#endif
