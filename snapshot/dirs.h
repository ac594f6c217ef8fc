/* A stack of open directories: where a walk is in a tree that may be deeper than the process may
 * have open files, with paths longer than PATH_MAX. Only the innermost few are held open; a level
 * that was closed is opened again through "..", and must be the same directory then.
 *
 * Never follows a symbolic link, never leaves the root it was given. */
#ifndef BERTH_DIRS_H
#define BERTH_DIRS_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>
#include <sys/types.h>

struct dirs_level {
	int fd; /* owned, -1: closed for now */
	dev_t dev;
	ino_t ino;
};

struct dirs {
	struct dirs_level *at; /* owned; [0] is the root */
	size_t n, cap;
};

enum { DIRS_OPEN_MAX = 48, DIRS_DEPTH_MAX = 1 << 19 };

#define auto_dirs __attribute__((cleanup(dirs_done))) struct dirs
int dirs_init(struct dirs *d, int root, struct err *err) must_check;
void dirs_done(struct dirs *d);
/* The innermost directory, open for reading; lent until the next enter or leave. */
int dirs_fd(const struct dirs *d);
/* Goes into a directory of the innermost one. errno stays for who asks. */
int dirs_enter(struct dirs *d, const char *name, struct err *err) must_check;
int dirs_leave(struct dirs *d, struct err *err) must_check;

/* Opens the directory that a path of any length leads to, beneath root, without links. */
int dirs_open(int root, struct str path, struct err *err) must_check;
/* Removes a name and all below it, however deep, on its own filesystem. Absent is success. */
int dirs_remove_tree(int dir, const char *name, struct err *err) must_check;
/* Removes all that is in a directory. */
int dirs_clear(int dir, struct err *err) must_check;

#endif
