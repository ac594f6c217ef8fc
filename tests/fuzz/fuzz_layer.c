/* A layer in the store: seek table, frames, and the tar in them; as workers read them. */
#include "fuzz.h"

#include "tar.h"

enum { RAW_MAX_BYTES = 8 << 20, ENTRIES_AT_MOST = 2000 };

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	struct err err;
	struct entry e;
	struct str piece;
	uint64_t at;
	const int fd = file_of(bytes, n);
	struct frames_reader *frames = frames_reader_new(fd, 1, RAW_MAX_BYTES, &err);
	struct tar_reader *t = frames ? tar_reader_new(frames, &err) : NULL;

	for (int i = 0; t && i < ENTRIES_AT_MOST && tar_next(t, &e, &err) > 0; i++)
		while (tar_read(t, &piece, &at, &err) > 0)
			;
	tar_reader_free(t);
	frames_reader_free(frames);
	close(fd);
	return 0;
}
