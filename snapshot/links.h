/* First names of files that have several: inode → path, for one layer. */
#ifndef BERTH_LINKS_H
#define BERTH_LINKS_H

#include "base/buf.h"

#include <stdint.h>

struct links {
	struct link_row {
		uint64_t ino; /* 0: free */
		size_t at;    /* of the path in `paths`, with its NUL */
	} * rows;             /* owned */
	size_t n, cap;
	struct buf paths;
};

#define auto_links __attribute__((cleanup(links_done))) struct links
void links_init(struct links *l);
void links_done(struct links *l);
/* The path under which this inode was added; NULL: not yet. Lent until the next add. */
const char *links_find(const struct links *l, uint64_t ino);
int links_add(struct links *l, uint64_t ino, struct str path, struct err *err) must_check;

#endif
