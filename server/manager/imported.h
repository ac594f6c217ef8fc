/* Imported images: their verbs (do.h) and what a session needs of the one it stands on. */
#ifndef BERTH_IMPORTED_H
#define BERTH_IMPORTED_H

#include "index/image_rows.h"
#include "manager/session.h"

/* The image of a session that was imported, not the node's own. */
bool imported_is(const char *content);
/* What a session's image is: 1, 0 it is the node's own, -1 with ABSENT when it is not here. */
int imported_find(struct manager *m, const char *content, struct image_row *out,
		  struct err *err) must_check;
/* By the name that `new --image` gave; ABSENT, with a hint, when there is none. */
int imported_find_name(struct manager *m, struct str name, char out_content[80],
		       struct err *err) must_check;
/* Its directories, the topmost first; the lowest is last. fds: owned by the caller, all -1 before.
 */
int imported_open(struct manager *m, const struct image_row *row, int fds[IMAGE_ROW_LAYERS_MAX],
		  struct err *err) must_check;
/* The client of an import under way has gone: it goes on. */
void imported_forget_conn(const struct conn *c, const uint32_t *seq);
/* It wants an import undone. False: it has none under way. */
bool imported_interrupt(const struct conn *c, uint32_t seq);
/* Ends what is under way. */
void imported_stop(void);

#endif
