/* What a fork takes over of the session, or the snapshot, that it is made from. */
#ifndef BERTH_ORIGIN_H
#define BERTH_ORIGIN_H

#include "manager/session.h"

struct origin {
	char image[80], network[40];
	bool has_head;
	struct digest head;
	struct limits_set limits;
	struct choices choices; /* owned; with the node that it is of, where that is known */
};

/* Of session s as its last snapshot has it; or of a snapshot (NULL: none), whose session s is. Call
 * keys and journals stay behind, named shells are files. */
void origin_of(const struct session *s, const struct snapshot_row *snapshot, struct origin *out);
/* Takes away what only an operator gives: limits above the node's, mounts, lower walls, the node's
 * network. They are named in `given`, ", " between, if there are any. */
void origin_plain(const struct manager *m, struct origin *o, struct buf *given);
void origin_done(struct origin *o);
#define auto_origin __attribute__((cleanup(origin_done))) struct origin

#endif
