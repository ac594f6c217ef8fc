/* A journal as a conn reads it: its keeper, or the disk, may have written anything. Pieces of any
 * size tell of the same bytes. */
#include "fuzz.h"

#include "wire/journal_read.h"

enum { FRAMES_AT_MOST = 4096 };

static uint64_t
read_all(int fd, size_t piece, bool *whole)
{
	static char room[65536];
	struct journal_reader r;
	struct journal_frame f;
	struct err err;
	uint64_t sum = 0;

	*whole = false;
	journal_reader_init(&r, fd);
	for (int i = 0; i < FRAMES_AT_MOST; i++) {
		const int got = journal_next(&r, room, piece, &f, &err);
		if (got <= 0) {
			*whole = got == 0;
			return sum;
		}
		CLAIM(f.length <= piece);
		for (size_t k = 0; k < f.length; k++)
			sum = sum * 31 + (unsigned char)room[k] + f.stream;
	}
	return sum;
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	bool whole, whole_too;
	const int fd = file_of(bytes, n);
	const uint64_t a = read_all(fd, 65536, &whole), b = read_all(fd, 37, &whole_too);

	CLAIM(!whole || !whole_too || a == b);
	close(fd);
	return 0;
}
