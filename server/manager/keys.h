/* Who may come in: keys/authorized_keys, read again when it changes, and the keys that the first
 * start makes: the host's and the first operator's. */
#ifndef BERTH_KEYS_H
#define BERTH_KEYS_H

#include "base/buf.h"
#include "base/digest.h"
#include "base/err.h"
#include "verbs/verbs.h"

#include <time.h>

struct key {
	char *blob;          /* owned: base64 of the key, as in the file */
	char principal[128]; /* SHA256:… fingerprint and comment */
	enum principal_role role;
	struct scope scope;
};

struct keys {
	int dir;          /* owned: STATE/keys */
	struct buf host;  /* owned: the host key, OpenSSH private key text */
	struct key *list; /* owned */
	size_t n;
	struct timespec mtime;
	off_t size;
	bool loaded;
	unsigned loads;    /* so many times it has changed */
	struct digest sum; /* of the file */
};

/* Makes what is missing (ed25519, 0600), reads the rest.
 *   state_path   only for what ssh-keygen is told and for messages */
int keys_open(struct keys *k, int state_dir, const char *state_path, struct err *err) must_check;
void keys_close(struct keys *k);
/* The key with this text ("TYPE BASE64", as a conn sends it), NULL when it may not come in. Reads
 * the file again when it has changed. */
const struct key *keys_find(struct keys *k, struct str text);
/* The key of a principal that an earlier manager let in. */
const struct key *keys_find_principal(struct keys *k, const char *principal);
/* SHA256:… of a key, known or not, as keys_find takes it. */
void keys_fingerprint(struct str text, char out[128]);
/* One line of authorized_keys. 1 a key, 0 nothing there (blank, comment), -1 not acceptable. */
int keys_parse_line(struct str line, struct key *out, struct err *err) must_check;

#endif
