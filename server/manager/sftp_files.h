/* What OpenSSH's sftp-server runs from in sessions, whatever their image has: copies of it, of the C library
 * and the loader that this very process runs with, and of init/sftp_preload.c. Sealed files in memory, made
 * once a start of the manager, shared by all sessions, which get descriptors of them and no path. */
#ifndef BERTH_SFTP_FILES_H
#define BERTH_SFTP_FILES_H

#include "manager/prepare.h"

/* out: owned by the caller; all, or on failure none. server "none": fails too. Where an id is left that
 * no session has, it is their owner: a session that owned them could take them from the others (fchmod). */
int sftp_files_open(const char *libexec, const char *server, const struct isolation *i,
		    int out[NODE_SFTP_FILES], struct err *err) must_check;

#endif
