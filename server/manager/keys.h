/* Who may come in: keys/authorized_keys, read again when it changes, and the keys that the first
 * start makes: the host's and the first operator's. */
#ifndef BERTH_KEYS_H
#define BERTH_KEYS_H

#include "base/buf.h"
#include "base/digest.h"
#include "base/err.h"
#include "manager/key_line.h"
#include "manager/keys_file.h"
#include "manager/revoked.h"

struct keys {
	int dir;          /* owned: STATE/keys */
	struct buf host;  /* owned: the host key, OpenSSH private key text */
	struct key *list; /* owned, in the order of the file */
	size_t n;
	struct revoked revoked;
	struct keys_file authorized_file, revoked_file;
	struct err authorized_bad, revoked_bad; /* why one cannot be read */
	unsigned loads;                         /* so many times one of them has changed */
	struct digest sum, revoked_sum; /* of the files */
};

/* Makes what is missing (ed25519, 0600), reads the rest.
 *   state_path   only for what ssh-keygen is told and for messages */
int keys_open(struct keys *k, int state_dir, const char *state_path, struct err *err) must_check;
void keys_close(struct keys *k);
/* Reads what has changed. True: a file is just being changed, what was read before holds; it is to
 * be asked again within KEYS_FILE_QUIET. */
bool keys_reload(struct keys *k);
/* False: both were not read yet, since they were being written when the server began. Nobody is let
 * in, nobody cut. */
static inline bool
keys_known(const struct keys *k)
{
	return k->authorized_file.known && k->revoked_file.known;
}
/* Lines with this blob, one after another: the first after `last` (NULL: of all), or NULL.
 *   authority   of those with cert-authority, else of those without */
const struct key *keys_next(const struct keys *k, struct str blob, bool authority,
			    const struct key *last);

#endif
