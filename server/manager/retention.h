/* Which snapshots of a session may go: one pure function over a list of rows. What a rule is, what
 * it keeps, and what no rule ever drops is decided here and nowhere else. */
#ifndef BERTH_RETENTION_H
#define BERTH_RETENTION_H

#include "base/buf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* All zero: everything is kept. */
struct retention {
	uint64_t last, hourly, daily, weekly; /* so many of each */
	uint64_t ttl_ns;                      /* none that is older; 0: no bound on age */
};

struct retention_row {
	uint64_t created_ns, expires_ns; /* CLOCK_REALTIME; expires_ns 0: when the rule says */
	bool held; /* pinned, named, a head, the goal of a redo, what a fork stands on, in use */
	bool goes; /* out */
};

enum { RETENTION_TEXT_BYTES = 96, RETENTION_MOST = 1000000 };

/* "all", or some of last=N hourly=N daily=N weekly=N ttl=TIME, with blanks or commas between. */
int retention_parse(struct str text, struct retention *out, struct err *err) must_check;
void retention_format(const struct retention *r, char out[RETENTION_TEXT_BYTES]);

/* Sets `goes` of each row; the rows' order is the caller's. A row
 *   1. that is held stays;
 *   2. with an end of its own stays until then, and goes then, whatever the rule says;
 *   3. stays when it is one of the last N, or the newest of one of the last N hours, days or weeks
 * (of UTC, from Monday) that have one; a rule with none of these keeps all;
 *   4. older than ttl goes, whatever 3 says, but the newest of all rows stays. */
void retention_choose(const struct retention *r, struct retention_row *rows, size_t n,
		      uint64_t now_ns);

#endif
