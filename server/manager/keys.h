/* Who may come in: keys/authorized_keys, read again when it changes, and the keys that the first
 * start makes: the host's and the first operator's. */
#ifndef BERTH_KEYS_H
#define BERTH_KEYS_H

#include "base/buf.h"
#include "base/digest.h"
#include "base/err.h"
#include "manager/key_line.h"
#include "manager/revoked.h"

#include <sys/stat.h>
#include <time.h>

/* What a file looked like when it was read. */
struct keys_file {
	bool loaded, there;
	ino_t inode;
	off_t size;
	struct timespec changed;
};

struct keys {
	int dir;          /* owned: STATE/keys */
	struct buf host;  /* owned: the host key, OpenSSH private key text */
	struct key *list; /* owned, in the order of the file */
	size_t n;
	struct revoked revoked;
	struct keys_file authorized_file, revoked_file;
	unsigned loads;    /* so many times one of them has changed */
	struct digest sum, revoked_sum; /* of the files */
};

/* Makes what is missing (ed25519, 0600), reads the rest.
 *   state_path   only for what ssh-keygen is told and for messages */
int keys_open(struct keys *k, int state_dir, const char *state_path, struct err *err) must_check;
void keys_close(struct keys *k);
/* Reads what has changed. */
void keys_reload(struct keys *k);
/* Lines with this blob, one after another: the first after `last` (NULL: of all), or NULL.
 *   authority   of those with cert-authority, else of those without */
const struct key *keys_next(const struct keys *k, struct str blob, bool authority,
			    const struct key *last);
/* The key of a principal that an earlier manager let in. */
const struct key *keys_find_principal(const struct keys *k, const char *principal);

#endif
