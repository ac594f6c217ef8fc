/* When snapshots of a running session are taken without being asked for. */
#ifndef BERTH_SNAPSHOT_MODE_H
#define BERTH_SNAPSHOT_MODE_H

#include "base/buf.h"
#include "base/err.h"

#include <stdint.h>

enum snapshot_when {
	SNAPSHOT_STANDARD, /* of a session: as the node has it */
	SNAPSHOT_PAUSE,    /* by pauses alone */
	SNAPSHOT_CALL,     /* when the last of its calls has ended */
	SNAPSHOT_INTERVAL, /* while something runs */
};

struct snapshot_mode {
	enum snapshot_when when;
	uint64_t interval_ns;
};

enum { SNAPSHOT_MODE_BYTES = 48 };

/* "pause", "call", "interval:10m"; with `standard` also "default". USAGE. */
int snapshot_mode_parse(struct str text, bool standard, struct snapshot_mode *out,
			struct err *err) must_check;
void snapshot_mode_format(const struct snapshot_mode *m, char out[SNAPSHOT_MODE_BYTES]);

#endif
