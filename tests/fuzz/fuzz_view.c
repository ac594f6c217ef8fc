/* A snapshot as its readers see it, whose index is the input: listed, looked up, compared with
 * nothing, and files of it read, from an archive that is whole. */
#include "fuzz.h"

#include "content.h"
#include "diff.h"
#include "frames.h"

#include <fcntl.h>
#include <sys/stat.h>

enum { ROWS_AT_MOST = 2000 };

static char path[] = "/tmp/berth-fuzz.XXXXXX";
static int store = -1;
static struct digest digest; /* that the archive is known by */

static void
remove_store(void)
{
	unlinkat(store, "archive", 0);
	unlinkat(store, "blobs/sha256", AT_REMOVEDIR);
	unlinkat(store, "blobs", AT_REMOVEDIR);
	unlinkat(store, "idx", AT_REMOVEDIR);
	rmdir(path);
}

static void
make_store(void)
{
	char bytes[4096];
	struct frames_sum sum;
	struct err err;

	CLAIM(mkdtemp(path) && atexit(remove_store) == 0);
	store = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	CLAIM(mkdirat(store, "idx", 0700) == 0 && mkdirat(store, "blobs", 0700) == 0 &&
	      mkdirat(store, "blobs/sha256", 0700) == 0);
	const int fd = openat(store, "archive", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	struct frames_writer *w = frames_writer_new(fd, 1, 1, &err);
	for (size_t i = 0; i < sizeof bytes; i++)
		bytes[i] = (char)('0' + i % 10);
	CLAIM(w && frames_add(w, bytes, sizeof bytes, &err) == 0 &&
	      frames_finish(w, &sum, &err) == 0);
	frames_writer_free(w);
	close(fd);
	digest = sum.digest;
}

/* The input as the index of the archive, which gets the name that the index says it has. */
static void
put_index(const uint8_t *bytes, size_t n)
{
	struct frames_sum said;
	char name[128];
	uint64_t entries;
	struct err err;

	const int probe = file_of(bytes, n);
	struct idx_reader *r = idx_reader_new(probe, &err);
	if (r && idx_layer(r, &said, &entries, &err) == 0)
		digest = said.digest;
	idx_reader_free(r);
	close(probe);
	snprintf(name, sizeof name, "blobs/sha256/%s", digest_text(&digest).text);
	(void)!linkat(store, "archive", store, name, 0);
	snprintf(name, sizeof name, "idx/%s.idx", digest_text(&digest).text);
	const int fd = openat(store, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	CLAIM(fd >= 0 && write(fd, bytes, n) == (ssize_t)n);
	close(fd);
}

static void
drop_index(void)
{
	char name[128];

	snprintf(name, sizeof name, "blobs/sha256/%s", digest_text(&digest).text);
	unlinkat(store, name, 0);
	snprintf(name, sizeof name, "idx/%s.idx", digest_text(&digest).text);
	unlinkat(store, name, 0);
}

static int
note(void *ctx, const struct diff_change *c, struct err *err)
{
	unsigned *rows = ctx;

	CLAIM(c->a.there || c->b.there);
	return ++*rows > ROWS_AT_MOST ? err_set(err, ERR_CANCELLED, "enough") : 0;
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	char piece[512];
	struct view_entry e;
	struct err err;
	size_t got;
	unsigned rows = 0;

	if (store < 0)
		make_store();
	put_index(bytes, n);
	const struct layer_options o = {.store = store, .cache = -1, .threads = 1};
	struct view *v = view_new(&o, &digest, 1, &err), *none = view_new(&o, &digest, 0, &err);
	struct view_walk *w = view_walk_new(v, STR_LIT(""), true, &err);
	for (int i = 0; w && i < ROWS_AT_MOST && view_walk_next(w, &e, &err) > 0; i++) {
		CLAIM(e.row.path.len == 0 || e.row.path.at[0] != '/');
		struct content *c = content_open(v, &e, &err);
		if (c && content_read(c, 0, piece, sizeof piece, &got, &err) == 0)
			CLAIM(got <= sizeof piece);
		content_free(c);
	}
	view_walk_free(w);
	(void)!view_find(v, STR_LIT("a/b"), &e, &err);
	(void)!diff_views(none, v, note, &rows, &err);
	view_free(v);
	view_free(none);
	drop_index();
	return 0;
}
