/* Who owns a session: one interface, so that on several nodes leases of a shared store can take the
 * place of what one node needs. Whoever holds a claim has a fence, a number that only grows; every
 * write of session state carries it, and one with an older fence is refused.
 *
 * On one node (owner_index) the fence is a counter in the index, the deadline is infinite and a
 * claim is never lost. */
#ifndef BERTH_OWNER_H
#define BERTH_OWNER_H

#include "index/rows.h"

struct owner {
	const char *name;
	/* Takes or keeps the session for this node: row->fence is raised, durably with its state.
	 */
	int (*claim)(struct index *ix, struct session_row *row, struct err *err);
	/* Gives it up: another may claim it at once. */
	int (*release)(struct index *ix, struct session_row *row, struct err *err);
	/* Moves the head from `expected` (NULL: none) to row's, with the rest of the row. AGAIN
	 * when the fence is old or the head is another: nothing was changed. Within the caller's
	 * transaction. */
	int (*commit)(struct index *ix, const struct session_row *row,
		      const struct digest *expected, struct err *err);
	/* CLOCK_BOOTTIME by which the claim must be renewed, or the keeper freezes the session. */
	uint64_t (*deadline_ns)(const struct session_row *row);
	/* Whether the claim was lost to another node. */
	bool (*lost)(const struct session_row *row);
};

extern const struct owner owner_index;

#endif
