/* Extended attributes of one entry, between the disk of an overlay's upper and the archive.
 *
 * Invariants:
 *  1. the list is sorted by name, so equal attributes are equal bytes in an archive;
 *  2. overlayfs's own marks are never in it: opaque and whiteout are told apart as marks, the rest
 *     (origin, impure, …) is dropped. What a session itself set as user.overlay.X is on disk as
 *     user.overlay.overlay.X, is user.overlay.X in the archive, and is escaped again on the way
 *     back: no archive can forge a mark;
 *  3. only user.*, security.capability and POSIX ACLs travel; labels of the node do not. */
#ifndef BERTH_ATTRS_H
#define BERTH_ATTRS_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>

struct attr {
	char *name;  /* owned; as in the archive */
	char *value; /* owned */
	size_t n;    /* bytes of value */
};

struct attrs {
	struct attr *at; /* owned */
	size_t n;
};

enum attrs_mark { MARK_OPAQUE = 1, MARK_WHITEOUT = 2 };
enum { ATTR_VALUE_MAX_BYTES = 65536, ATTRS_MAX = 512, XATTR_NAME_MAX_BYTES = 256 };

#define auto_attrs __attribute__((cleanup(attrs_done))) struct attrs
void attrs_done(struct attrs *a);
/* Whether an attribute of this name may be in an archive (invariant 3). */
bool attrs_may_travel(const char *name);
/* Adds one, sorted. `name` as in an archive: fails with CORRUPT when it may not travel. */
int attrs_add(struct attrs *a, struct str name, struct str value, struct err *err) must_check;
/* Of an open file or directory. out_marks: bits of enum attrs_mark. */
int attrs_load(int fd, struct attrs *out, unsigned *out_marks, struct err *err) must_check;
/* Sets them. exact: those on disk that are not in the list go, but for overlay marks. lenient: those
 * that this process may not set (capabilities, ACLs of ids that it has not) are left out. */
int attrs_store(int fd, const struct attrs *a, bool exact, bool lenient,
		struct err *err) must_check;
/* Sets overlayfs's own mark, as a userxattr mount wants it. */
int attrs_mark_opaque(int fd, struct err *err) must_check;
/* A directory with whiteouts that may have nothing below it: without this mark overlayfs would not
 * look for whiteouts in it, and list the names of what is deleted. */
int attrs_mark_whiteouts(int fd, struct err *err) must_check;
/* Takes a default ACL off a directory while its entries are made, which would inherit it. */
int attrs_drop_default_acl(int fd, struct err *err) must_check;

#endif
