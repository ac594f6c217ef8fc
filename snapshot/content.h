/* The bytes of one file of a view, from anywhere in it: out of an archive, or of a live upper.
 * Holes are zeros. */
#ifndef BERTH_CONTENT_H
#define BERTH_CONTENT_H

#include "view.h"

struct content;

/* e: a file or a hard link, with its row still lent. NULL: failed; USAGE where it is neither. */
struct content *content_open(struct view *v, const struct view_entry *e,
			     struct err *err) must_check;
void content_free(struct content *c);
AUTO_OF(content)
uint64_t content_bytes(const struct content *c);
/* The digest of its layer and where its data begins there: equal of two, they are the same bytes.
 * False: it is live. */
bool content_place(const struct content *c, struct digest *out, uint64_t *out_at);
/* Up to n bytes from `at`: *out_n of them, 0 at the end only. A live file may have become shorter.
 */
int content_read(struct content *c, uint64_t at, void *out, size_t n, size_t *out_n,
		 struct err *err) must_check;

#endif
