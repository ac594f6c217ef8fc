/* A tar from elsewhere, in any compression: an image's layer. */
#include "fuzz.h"

#include "tar.h"

enum { ENTRIES_AT_MOST = 2000, PIECES_AT_MOST = 256 };

struct source {
	struct str rest;
};

static int
next(void *ctx, struct str *out, struct err *err)
{
	struct source *s = ctx;
	const size_t n = s->rest.len < 700 ? s->rest.len : 700;

	(void)err;
	*out = (struct str){s->rest.at, n};
	s->rest = (struct str){s->rest.at + n, s->rest.len - n};
	return n > 0;
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	struct source s = {text_of(bytes, n)};
	const struct tar_source from = {next, &s};
	struct err err;
	struct entry e;
	struct str piece;
	uint64_t at;
	struct tar_reader *t = tar_reader_foreign(&from, &err);

	for (int i = 0; t && i < ENTRIES_AT_MOST && tar_next(t, &e, &err) > 0; i++)
		for (int k = 0; k < PIECES_AT_MOST && tar_read(t, &piece, &at, &err) > 0; k++)
			;
	tar_reader_free(t);
	return 0;
}
