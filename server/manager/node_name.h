/* Who this node is: so that a session notices that it is on another one. */
#ifndef BERTH_NODE_NAME_H
#define BERTH_NODE_NAME_H

#include "base/err.h"

enum { NODE_NAME_BYTES = 33 };

/* 32 hex digits out of a salted sha256 of the machine's id, which they do not tell; the same for
 * every start on one node, another on each. Without such an id: of random bytes that are made once
 * and kept in STATE, and so go where STATE goes.
 *   state       lent: an open directory
 *   machine_id  "/etc/machine-id" */
int node_name_find(int state, const char *machine_id, char out[NODE_NAME_BYTES],
		   struct err *err) must_check;

#endif
