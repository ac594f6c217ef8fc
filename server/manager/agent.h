/* Agents of clients, in sessions (ssh -A). */
#ifndef BERTH_AGENT_H
#define BERTH_AGENT_H

#include "manager/conns.h"

/* A conn asks for a socket in its session; it is answered, with no path where there is none. */
void agent_want(struct conn *c, uint32_t seq);

#endif
