/* An input as parts, for what reads blobs that name each other: a part is a kind, a length of two
 * bytes (little-endian) and its bytes, in which '$' and a digit stand for the digest, in hex, of
 * that part (counted from the first). So an input gets past the sums. */
#ifndef BERTH_FUZZ_BLOBS_H
#define BERTH_FUZZ_BLOBS_H

#include "fuzz.h"

#include "base/digest.h"
#include "base/path.h"

#include <fcntl.h>

enum { PARTS_MAX = 10, PART_MAX_BYTES = 1 << 17 };

struct part {
	uint8_t kind;
	struct buf bytes; /* owned */
	struct digest digest;
};

struct parts {
	struct part at[PARTS_MAX];
	size_t n;
};

static inline void
parts_fill(struct parts *p, struct part *out, const uint8_t *bytes, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		const bool names = bytes[i] == '$' && i + 1 < n && bytes[i + 1] >= '0' &&
				   (size_t)(bytes[i + 1] - '0') < p->n;
		if (names)
			buf_text(&out->bytes, digest_text(&p->at[bytes[++i] - '0'].digest).text);
		else
			buf_char(&out->bytes, (char)bytes[i]);
	}
	out->digest = digest_of(buf_view(&out->bytes));
}

static inline void
parts_take(struct parts *p, const uint8_t *bytes, size_t n)
{
	while (n >= 3 && p->n < PARTS_MAX) {
		const size_t said = (size_t)(bytes[1] | bytes[2] << 8);
		const size_t most = said < n - 3 ? said : n - 3;
		struct part *out = &p->at[p->n];
		*out = (struct part){.kind = bytes[0], .bytes = BUF_MAX(PART_MAX_BYTES)};
		parts_fill(p, out, bytes + 3, most);
		p->n++;
		bytes += 3 + most;
		n -= 3 + most;
	}
}

static inline void
parts_done(struct parts *p)
{
	for (size_t i = 0; i < p->n; i++)
		buf_free(&p->at[i].bytes);
}

/* ---- a store, empty anew for each input ---- */

static char store_path[] = "/dev/shm/berth-fuzz.XXXXXX"; /* what is synced is memory */
static int store_above = -1;

static inline void
store_remove(void)
{
	rmdir(store_path);
}

static inline int
store_begin(void)
{
	struct err err;

	if (store_above < 0) {
		CLAIM(mkdtemp(store_path) && atexit(store_remove) == 0);
		store_above = open(store_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	}
	const int store = path_open_dir(store_above, "store", 0700, &err);
	CLAIM(store >= 0);
	return store;
}

static inline void
store_end(int store)
{
	struct err err;

	close(store);
	CLAIM(path_remove_tree(store_above, "store", &err) == 0);
}

#endif
