/* What an sftp call did to files, on its way from its keeper to the audit log: `command` of a call_record of
 * kind "files". One line each:
 *
 *   OP TAB PATH TAB TO TAB READ TAB WRITTEN TAB MORE TAB STATUS LF
 *
 * Texts are printable ASCII (paths as sftp-server's log escapes them) and may be empty; numbers decimal. */
#ifndef BERTH_TRANSFERS_H
#define BERTH_TRANSFERS_H

#include "base/buf.h"

#include <stdbool.h>
#include <stdint.h>

enum { TRANSFERS_BYTES = 4096, TRANSFER_PATH_BYTES = 1024, TRANSFER_LINE_BYTES = 3072 };

/* Views, lent by whoever made it. */
struct transfer {
	struct str op;          /* open, close, remove, rename, ... */
	struct str path, to;    /* to: of what has two names */
	uint64_t read, written; /* bytes: of a close */
	struct str more;        /* flags, modes, owners */
	struct str status;      /* what went wrong; empty: nothing that it told of */
};

/* Appends its line; texts are cut and made printable, so that it always is one of this form and of at most
 * TRANSFER_LINE_BYTES. */
void transfer_put(struct buf *out, const struct transfer *t);
/* Takes the first line off. false: there is none of this form. */
bool transfer_next(struct str *rest, struct transfer *out);

#endif
