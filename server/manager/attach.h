/* What a session needs to be in a network that an operator prepared, as fds for its keeper. For the
 * process that builds a workspace: it is in another network namespace afterwards. */
#ifndef BERTH_ATTACH_H
#define BERTH_ATTACH_H

#include "base/err.h"
#include "manager/networks.h"

struct attached {
	int netns;  /* owned: where pid 1 starts; -1: a new one of its own, or the node's */
	int sys;    /* owned: sysfs of that namespace, detached; -1: pid 1 can mount its own */
	int resolv; /* owned: a resolv.conf, detached and read-only; -1: none */
};

/*   userns   lent: the session's; a bridge's namespace belongs to it
 *   fails    ABSENT when the namespace or the bridge is not there (any more) */
int attach_network(const struct network *n, unsigned slot, int userns, struct attached *out,
		   struct err *err) must_check;

/* bridge.c: a namespace of the user namespace, with eth0 in it that leads to a bridge. Returns it.
 */
int bridge_attach(const struct network *n, uint32_t address, int userns,
		  struct err *err) must_check;

#endif
