/* Where connections come in: option `listen`, ADDR:PORT[ roles=ROLE+ROLE], with commas between. A
 * listener lets in the keys of its roles alone; on loopback that is all by default, elsewhere all
 * but operators (unless operator_anywhere). */
#ifndef BERTH_LISTENERS_H
#define BERTH_LISTENERS_H

#include "base/loop.h"
#include "config.h"

#include <sys/socket.h>

struct manager;

enum { LISTENERS_MAX = 16 };

struct listener {
	struct manager *m; /* lent */
	int fd;            /* owned; -1: not open */
	struct watch watch;
	struct sockaddr_storage address;
	socklen_t address_bytes;
	unsigned roles; /* bits of 1 << enum principal_role */
	char text[80];  /* ADDR:PORT, with the port that it got */
};

struct listeners {
	struct listener at[LISTENERS_MAX];
	size_t n;
};

int listeners_parse(struct listeners *ls, const struct config *c, struct err *err) must_check;
int listeners_open(struct manager *m, struct err *err) must_check;
int listeners_watch(struct manager *m, struct err *err) must_check;
void listeners_close(struct listeners *ls);
/* The line by which whoever started berthd knows that it is ready. */
void listeners_announce(const struct manager *m);

#endif
