/* What an entry of an upper contains, where its stat does not tell all. */
#ifndef BERTH_CONTENTS_H
#define BERTH_CONTENTS_H

#include "base/digest.h"
#include "entry.h"

/* Its attributes, target and data. fd: of a file, else -1. */
int contents_digest(const struct entry *e, int fd, struct digest *out, struct err *err) must_check;
/* Who has mapped a file and has written to a page of it can write there again and again without a new
 * ctime, until the page was cleaned. So what is dirty is written out, before the file is read. */
int contents_clean(int fd) must_check;

#endif
