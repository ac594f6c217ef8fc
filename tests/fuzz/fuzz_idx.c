/* A layer's entries, an SQLite file that workers alone open. */
#include "fuzz.h"

#include "idx.h"

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	struct err err;
	struct frames_sum sum;
	uint64_t entries, at, size;
	const int fd = file_of(bytes, n);
	struct idx_reader *r = idx_reader_new(fd, &err);

	if (r) {
		(void)!idx_layer(r, &sum, &entries, &err);
		(void)!idx_find(r, STR_LIT("a"), &at, &size, &err);
	}
	idx_reader_free(r);
	close(fd);
	return 0;
}
