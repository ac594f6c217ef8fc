/* Words of the lines and of the JSON that a reading worker prints. Names come out of archives: on a
 * terminal they must not do anything. */
#ifndef BERTH_LINES_H
#define BERTH_LINES_H

#include "base/buf.h"
#include "entry.h"

/* With controls, bytes that are no UTF-8 and backslashes as \xHH. */
void lines_path(struct buf *out, struct str path);
/* A path of a unified diff: quoted as git does it where it must be. */
void lines_quoted(struct buf *out, const char *front, struct str path);
void lines_json(struct buf *out, struct str text);
/* "drwxr-xr-x" */
void lines_mode(struct buf *out, enum entry_type type, uint32_t mode);
void lines_time(struct buf *out, int64_t ns);
const char *lines_type(enum entry_type type);

#endif
