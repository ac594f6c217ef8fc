/* What put_tree.c and put_entry.c know of each other. */
#ifndef BERTH_PUT_ENTRY_H
#define BERTH_PUT_ENTRY_H

#include "put_tree.h"

#include <sys/stat.h>

enum { PUT_ROOM_BYTES = 128 << 10 };

/* ---- put_entry.c ---- */

/* A name in a directory that is held open: no link, no mount, nothing above it. -1 with errno. */
int put_open(int dir, const char *name, uint64_t flags);
void put_tick(struct put *p);
/* A failure at the path where it is. */
int put_failed(const struct put *p, int number, const char *what, struct err *err);
bool put_is_owned(const struct stat *a, const struct stat *b); /* by the same, with the same mode */
bool put_is_time(const struct timespec *a, const struct timespec *b);
/* Extended attributes, ACLs and capabilities of open files: sets what differs; set false: only
 * tells, by 1, that something does. */
int put_xattrs(struct put *p, int from, int to, bool set, struct err *err) must_check;
/* All attributes; st: those of from. */
int put_attributes(struct put *p, int from, int to, const struct stat *st,
		   struct err *err) must_check;
/* A file; a link or fifo. old: what has the name in dir; NULL: nothing. */
int put_file(struct put *p, int from_dir, int dir, const char *name, const struct stat *st,
	     const struct stat *old, unsigned depth, struct err *err) must_check;
int put_special(struct put *p, int from_dir, int dir, const char *name, const struct stat *st,
		const struct stat *old, unsigned depth, struct err *err) must_check;

/* ---- put_tree.c ---- */

/* With all below it, but for mounts, which stay, and what holds them. */
int put_remove(struct put *p, int dir, const char *name, unsigned depth,
	       struct err *err) must_check;

#endif
