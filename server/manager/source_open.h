/* The source of an import, as an operator names it: opened here with all rights, read elsewhere. */
#ifndef BERTH_SOURCE_OPEN_H
#define BERTH_SOURCE_OPEN_H

#include "base/fd.h"
#include "manager/manager.h"

struct source_opened {
	uint32_t kind; /* as enum image_kind of snapshot/image.h */
	int fds[3];    /* owned */
	size_t n;
};

#define SOURCE_OPENED_NONE ((struct source_opened){.fds = {-1, -1, -1}})
#define auto_source_opened __attribute__((cleanup(source_opened_done))) struct source_opened
void source_opened_done(struct source_opened *s);
/* path: "host", or an absolute one. Not a tree that holds the server's own state. */
int source_open(const struct manager *m, struct str path, struct source_opened *out,
		struct err *err) must_check;

#endif
