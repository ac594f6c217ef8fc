/* Who may forward: options `forward_roles` and `agent_roles`, and what of it a key takes away. */
#ifndef BERTH_FORWARDS_H
#define BERTH_FORWARDS_H

#include "config.h"

struct conn;

struct forward_roles {
	unsigned ports, agent; /* bits of 1 << enum principal_role */
};

int forwards_parse(const struct config *c, struct forward_roles *out, struct err *err) must_check;
/* enum forward_right of a conn that is let in. */
uint32_t forwards_of(const struct conn *c);

#endif
