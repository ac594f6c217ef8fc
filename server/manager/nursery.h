/* The zygote, as the manager sees it: the process that connections are forked from (conn/zygote.c). */
#ifndef BERTH_NURSERY_H
#define BERTH_NURSERY_H

#include "base/loop.h"
#include "wire/wire.h"

struct manager;

struct nursery {
	struct wire link; /* to the zygote; not open: there is none at present */
};

int nursery_begin(struct manager *m, struct err *err) must_check;
/* Has a conn forked, by a new zygote where the one before has ended.
 *   conn_link, client   lent: the conn's end of its link, the accepted connection
 *   uid                 what it becomes; 0: stays */
int nursery_start_conn(struct manager *m, int conn_link, int client, uint32_t uid,
		       struct err *err) must_check;
void nursery_end(struct manager *m);

#endif
