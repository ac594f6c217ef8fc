#include "contents.h"
#include "base/buf.h"
#include "attrs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

static void
hash_text(struct hasher *h, const void *bytes, size_t n)
{
	const uint64_t size = n;
	hasher_add(h, &size, sizeof size);
	hasher_add(h, bytes, n);
}

static int
hash_file(struct hasher *h, int fd, const struct entry *e, struct err *err)
{
	const struct extent whole = {0, e->size};
	const struct extent *x = e->sparse ? e->extents : &whole;
	auto_free char *chunk = xnew(1, 65536);

	for (size_t i = 0; i < (e->sparse ? e->n_extents : 1); i++) {
		uint64_t at = x[i].at, left = x[i].n;
		hasher_add(h, &at, sizeof at);
		while (left) {
			const ssize_t k = pread(fd, chunk, left < 65536 ? left : 65536, (off_t)at);
			if (k < 0 && errno == EINTR)
				continue;
			if (k < 0)
				return err_sys(err, errno, "read");
			if (k == 0)
				break;
			hasher_add(h, chunk, (size_t)k);
			at += (size_t)k;
			left -= (size_t)k;
		}
	}
	return 0;
}

int
contents_digest(const struct entry *e, int fd, struct digest *out, struct err *err)
{
	auto_of(hasher) struct hasher *h = hasher_new();

	for (size_t i = 0; e->attrs && i < e->attrs->n; i++) {
		hash_text(h, e->attrs->at[i].name, strlen(e->attrs->at[i].name));
		hash_text(h, e->attrs->at[i].value, e->attrs->at[i].n);
	}
	hash_text(h, e->link.at, e->link.len);
	if (e->type == ENTRY_FILE && hash_file(h, fd, e, err) < 0)
		return -1;
	*out = hasher_sum(h);
	return 0;
}

int
contents_clean(int fd)
{
	return sync_file_range(fd, 0, 0,
			       SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
				   SYNC_FILE_RANGE_WAIT_AFTER);
}
