/* What one walk saw of an upper, for the next walk to compare with: one record an entry, in the
 * order of the walk, in a file without a name. Memory does not grow with the workspace.
 *
 * An entry is unchanged when inode, ctime, mtime, size, mode and owner are: ctime cannot be set.
 * But a change within the clock's tick of the first walk leaves the ctime as it was, so entries
 * with a ctime that near to it, or later, are *racy*: their record holds a digest of what they
 * contain, and that decides. */
#ifndef BERTH_COMPARE_H
#define BERTH_COMPARE_H

#include "base/digest.h"
#include "entry.h"

#include <sys/stat.h>

enum seen_flag { SEEN_OPAQUE = 1, SEEN_RACY = 2, SEEN_TORN = 4 };

struct seen {
	uint32_t type, flags; /* enum entry_type (a link's is that of its file), seen_flag */
	uint64_t ino, size;
	uint64_t links;
	int64_t ctime_ns, mtime_ns;
	uint32_t mode, uid, gid;
	struct digest content; /* of racy ones */
};

struct compare {
	int fd;         /* owned; -1: none */
	uint64_t begin_at; /* of the first record in the file */
	struct buf out; /* not written yet */
	struct buf in;  /* read, not taken yet, from in_at on */
	size_t in_at;
	uint64_t read_at;
	bool have; /* `seen` and `path` are the next record */
	struct seen seen;
	struct buf path;
};

#define COMPARE_NONE ((struct compare){.fd = -1})
#define auto_compare __attribute__((cleanup(compare_done))) struct compare

/* Makes an empty one in `scratch`. */
int compare_begin(struct compare *c, int scratch, struct err *err) must_check;
int compare_add(struct compare *c, struct str path, const struct seen *s,
		struct err *err) must_check;
/* In a file of the caller's, which may outlive this process: take_fd is empty. */
int compare_begin_in(struct compare *c, int take_fd, struct err *err) must_check;
/* Says of what was written into such a file that it is all, and which snapshot it is of. Not synced:
 * it is good for this boot alone. */
int compare_seal(struct compare *c, const struct digest *snapshot, struct err *err) must_check;
/* Reads one: 1, or 0 (and take_fd is closed) where it is not whole, of another snapshot, boot or form. */
int compare_open(struct compare *c, int take_fd, const struct digest *snapshot,
		 struct err *err) must_check;
/* Goes to the first record; `have` says whether there is one. */
int compare_rewind(struct compare *c, struct err *err) must_check;
int compare_next(struct compare *c, struct err *err) must_check;
void compare_done(struct compare *c);

struct seen seen_of(const struct stat *st, enum entry_type type, int64_t racy_from_ns);
bool seen_same(const struct seen *a, const struct seen *b);

#endif
