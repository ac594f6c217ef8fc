/* Who knocks: a connection that comes out of a session is refused before a byte of it is read,
 * unless the option sessions_reach_server lets it in. */
#ifndef BERTH_REACH_H
#define BERTH_REACH_H

#include "manager/manager.h"

#include <sys/socket.h>

/* Whether client, which is connected to peer, is one: then that is logged, once a second at most.
 */
bool reach_is_refused(const struct manager *m, int client, const struct sockaddr_storage *peer);

#endif
