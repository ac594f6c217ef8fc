/* The log of OpenSSH's sftp-server (-e -l VERBOSE), line by line: what it did to files. Written by a process
 * of the session, so it is untrusted bytes, and what is read of it is evidence, no proof.
 *
 *  1. memory is bounded whatever comes: a longer line is dropped whole, up to its end;
 *  2. a line tells what was asked, before it is done; "sent status" after it, how that failed. So each is
 *     held until the next line. sftp-server says at VERBOSE what it is asked, but for reads and writes,
 *     whose failures have a line of their own: a status is never taken for that of another request;
 *  3. a name ends at the last quote that its line's form allows: its own quotes are not escaped. Of two
 *     names with `" new "` in them both are told as one. */
#ifndef BERTH_SFTP_LOG_H
#define BERTH_SFTP_LOG_H

#include "wire/transfers.h"

enum { SFTP_LOG_LINE_BYTES = 4352, SFTP_LOG_WORDS_BYTES = 160 };

struct sftp_log {
	/* What was done; t is lent for the time of the call. */
	void (*on_transfer)(void *ctx, const struct transfer *t);
	void *ctx;
	char line[SFTP_LOG_LINE_BYTES]; /* what has come of the next one */
	size_t len;
	bool dropping;                  /* it is too long */
	char held[SFTP_LOG_LINE_BYTES]; /* the last one, where it tells of a file */
	size_t held_len;
	struct transfer pending;          /* views into held; op empty: none */
	char words[SFTP_LOG_WORDS_BYTES]; /* the last line of no form that is known, printable */
};

void sftp_log_take(struct sftp_log *l, const char *bytes, size_t n);
/* Nothing more comes for now: what is held is told. */
void sftp_log_settle(struct sftp_log *l);

#endif
