/* What a connection may be made of: options kex, ciphers, macs. The names are libssh's (0.10), less
 * all that uses SHA-1, CBC, or a group of which libssh would read from a file.
 *
 * A list of names is taken as it is. +A,B adds to the default, -A,B removes from it (globs), ^A,B
 * puts in front, as in sshd_config(5). The client's order decides which of them is used. */
#ifndef BERTH_ALGORITHMS_H
#define BERTH_ALGORITHMS_H

#include "config.h"

enum { ALGORITHMS_BYTES = 512 };

struct algorithms {
	char kex[ALGORITHMS_BYTES], ciphers[ALGORITHMS_BYTES], macs[ALGORITHMS_BYTES];
};

/* CONFIG: a name that is not known, or nothing is left. */
int algorithms_parse(const struct config *c, struct algorithms *out, struct err *err) must_check;
/* Of the server's key. */
#define ALGORITHMS_HOST_KEYS "ssh-ed25519"

#endif
