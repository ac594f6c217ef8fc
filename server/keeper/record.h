/* Call records on their way to the manager: calls/spool (its form: wire/spool_read.h).
 *
 *  1. a record is in the file before it is sent, and stays until the manager has acknowledged it;
 *  2. records are sent in the order of their numbers, at most RECORD_WINDOW unacknowledged: an
 *     acknowledgement stands for all numbers below it too. A new manager gets the rest again;
 *  3. the file is bounded: record_has_room is asked before a call is admitted;
 *  4. the file is read back to send, so memory does not grow while there is no manager. */
#ifndef BERTH_RECORD_H
#define BERTH_RECORD_H

#include "base/err.h"
#include "wire/spool_read.h"
#include "wire/wire.h"

#include <stdbool.h>
#include <stdint.h>

enum { RECORD_WINDOW = 256 };

struct spool {
	int fd;                   /* owned */
	char *room;               /* owned: one record */
	uint64_t next;            /* number of the next record */
	uint64_t reserved_to;     /* of the disk: up to this offset of the file */
	uint64_t sent, acked;     /* numbers: the last one of each */
	uint64_t send_at, end_at; /* file offsets */
	bool failed;              /* the last append did not fit: said once */
};

/* Opens the spool in calls_dir, or makes it. What a keeper before this one left is kept, and sent
 * first; numbers go on behind it, at least from next_record. */
int record_open(struct spool *s, int calls_dir, uint64_t next_record, struct err *err) must_check;
void record_close(struct spool *s);
bool record_has_room(const struct spool *s);
/* For what may be dropped: it leaves the other half to starts and ends. */
bool record_has_half(const struct spool *s);
/* Takes the disk's room for what `live` calls and one more have yet to say: however full it gets, their
 * ends are told. */
int record_reserve(struct spool *s, uint32_t live, struct err *err) must_check;

/* Numbers the record and appends it. -1: it is lost (a full disk). */
int record_append(struct spool *s, struct msg_call_record *record, struct err *err) must_check;
/* Sends what the window lets through. Does nothing on a closed link. */
int record_send(struct spool *s, struct wire *manager, struct err *err) must_check;
/* live: calls that have yet to say their end. Without one, what is acknowledged leaves the file. */
void record_ack(struct spool *s, uint64_t record, uint32_t live);
/* A new manager: everything unacknowledged is to be sent again. */
void record_rewind(struct spool *s);
static inline bool
record_all_acked(const struct spool *s)
{
	return s->send_at == s->end_at && s->acked >= s->sent;
}
int record_sync(struct spool *s, struct err *err) must_check;

#endif
