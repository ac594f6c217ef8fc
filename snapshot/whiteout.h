/* A deletion, and other names with a meaning: OCI's form in an archive ⇄ ours.
 *
 *   d/.wh.NAME         NAME of lower layers is gone          ENTRY_WHITEOUT d/NAME
 *   d/.wh..wh..opq     all of d in lower layers is gone      ENTRY_OPAQUE d
 *   .wh..wh..esc.X     a file that is really named .wh.X     any entry, any component of its path
 *
 * The last row is our own, since OCI has no way to store such a file: other readers take it for a
 * deletion of a name that nothing has; stock tar shows and extracts it. */
#ifndef BERTH_WHITEOUT_H
#define BERTH_WHITEOUT_H

#include "entry.h"

/* The name in an archive: "./" for the root, a trailing slash for directories. */
void whiteout_encode(enum entry_type type, struct str path, struct buf *out);
/* Judges a name from an archive, which may be hostile: CORRUPT for an absolute one, "..", ".", an
 * empty component, a deletion of nothing. *type: ENTRY_WHITEOUT or ENTRY_OPAQUE where the name says
 * so, else unchanged. */
int whiteout_decode(struct str name, enum entry_type *type, struct buf *out,
		    struct err *err) must_check;
/* The same for the target of a hard link, which is no deletion. */
int whiteout_decode_link(struct str name, struct buf *out, struct err *err) must_check;

#endif
