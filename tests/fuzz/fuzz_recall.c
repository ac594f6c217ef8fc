/* What a store tells when an index is made anew. Kinds of parts: 0 a ref of a session, 1 a blob, 2
 * the ref of the snapshot whose manifest is the part before, 3 the ref of an image, 4 of an image's
 * name, 5 the index of the blob before. What is told is pairs, whatever the store holds. */
#include "blobs.h"

#include "recall.h"

#include <sys/stat.h>

enum { FACTS_MAX = 10000 };

static void
put(int store, const char *name, struct str bytes)
{
	const int fd = openat(store, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	CLAIM(fd >= 0 && write(fd, bytes.at ? bytes.at : "", bytes.len) == (ssize_t)bytes.len);
	close(fd);
}

static void
put_part(int store, const struct parts *p, size_t i)
{
	const struct part *it = &p->at[i], *before = &p->at[i ? i - 1 : 0];
	char name[128];

	switch (it->kind) {
	case 0:
		snprintf(name, sizeof name, "refs/session-s_aaaaaaaaaaaaaaa%c.json",
			 (char)('a' + i));
		break;
	case 1:
		snprintf(name, sizeof name, "blobs/sha256/%s", digest_text(&it->digest).text);
		break;
	case 2:
		snprintf(name, sizeof name, "refs/%s.json", digest_text(&before->digest).text);
		break;
	case 3:
		snprintf(name, sizeof name, "refs/image-%s.json", digest_text(&it->digest).text);
		break;
	case 4:
		snprintf(name, sizeof name, "refs/image-n%zu.json", i);
		break;
	case 5:
		snprintf(name, sizeof name, "idx/%s.idx", digest_text(&before->digest).text);
		break;
	default:
		return;
	}
	put(store, name, buf_view(&it->bytes));
}

static void
check_pairs(struct str pairs)
{
	struct str key, value;

	CLAIM(pairs.len == 0 || pairs.at[pairs.len - 1] == '\0');
	while (pairs.len) {
		CLAIM(str_cut(&pairs, '\0', &key) && pairs.at && str_cut(&pairs, '\0', &value));
		CLAIM(key.len > 0);
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	struct parts p = {.n = 0};
	char kind[RECALL_KIND_BYTES];
	auto_buf pairs = BUF_MAX(RECALL_PAIRS_MAX_BYTES);
	struct err err;

	parts_take(&p, bytes, n);
	const int store = store_begin();
	CLAIM(mkdirat(store, "refs", 0700) == 0 && mkdirat(store, "idx", 0700) == 0 &&
	      mkdirat(store, "blobs", 0700) == 0 && mkdirat(store, "blobs/sha256", 0700) == 0);
	for (size_t i = 0; i < p.n; i++)
		put_part(store, &p, i);
	const struct layer_options o = {.store = store, .cache = -1, .threads = 1};
	struct recall *r = recall_new(&o, &err);
	CLAIM(r);
	for (int i = 0; i < FACTS_MAX && recall_next(r, kind, &pairs, &err) == 1; i++)
		check_pairs(buf_view(&pairs));
	recall_free(r);
	store_end(store);
	parts_done(&p);
	return 0;
}
