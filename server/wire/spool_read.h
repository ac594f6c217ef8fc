/* The spool of a keeper: calls/spool, the call records that the manager has not acknowledged yet.
 * The keeper appends (keeper/record.c); a manager that finds one without its keeper replays it.
 *
 *   file   records, one after another: u32 length (little endian), then the bytes of one
 *          call_record message as wire_encode makes them
 *
 * What follows a record that is cut short or does not decode is not looked at: it is the tail that
 * a crash left. */
#ifndef BERTH_SPOOL_READ_H
#define BERTH_SPOOL_READ_H

#include "base/err.h"
#include "wire.h"

#include <stdint.h>

#define SPOOL_NAME "spool"
enum { SPOOL_RECORD_MAX_BYTES = 16 << 10, SPOOL_MAX_BYTES = 64 << 20 };

/* record: lent for the time of the call. -1 stops the replay with its err. */
typedef int (*spool_fn)(void *ctx, const struct msg_call_record *record, struct err *err);

/* One record at *at, which is moved behind it.
 *   room      SPOOL_RECORD_MAX_BYTES, where the texts of `out` point into
 *   returns   1, 0 there is no further one, -1 */
int spool_next(int fd, uint64_t *at, char *room, struct msg_call_record *out,
	       struct err *err) must_check;

/* Each record of the spool in calls_dir, the oldest first; none when there is no spool.
 *   returns   how many, or -1 */
int spool_replay(int calls_dir, spool_fn fn, void *ctx, struct err *err) must_check;

#endif
