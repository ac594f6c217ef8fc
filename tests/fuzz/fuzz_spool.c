/* Call records as the manager reads them: keepers write them. */
#include "fuzz.h"

#include "wire/spool_read.h"

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	static char room[SPOOL_RECORD_MAX_BYTES];
	struct msg_call_record r;
	struct err err;
	const int fd = file_of(bytes, n);
	uint64_t at = 0, before = 0;

	while (spool_next(fd, &at, room, &r, &err) > 0) {
		CLAIM(at > before && at <= n);
		before = at;
	}
	close(fd);
	return 0;
}
