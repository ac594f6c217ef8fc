/* Bytes of an archive's stream from anywhere in it, by its seek table: one frame is read, judged
 * and decompressed for bytes that are in one frame.
 *
 * No byte is handed out before its frame had the size and the checksum that the table says. The
 * digest of the whole archive is not looked at: that is what verify is for. */
#ifndef BERTH_FRAMES_AT_H
#define BERTH_FRAMES_AT_H

#include "frames.h"

/* One frame, decompressed: shared by the archives that are read in turns. */
struct frames_room {
	char *raw, *bytes;        /* owned */
	struct ZSTD_DCtx_s *zstd; /* owned */
	const void *of;           /* whose frame it is; NULL: none's */
	size_t frame;
	uint64_t read_bytes; /* of archives, so far */
};

void frames_room_done(struct frames_room *room);

struct frames_at;

/* fd, room: lent. NULL: failed, CORRUPT as frames_reader_new. */
struct frames_at *frames_at_new(int fd, struct frames_room *room, uint64_t raw_max,
				struct err *err) must_check;
void frames_at_free(struct frames_at *f);
AUTO_OF(frames_at)
/* n bytes, all of them: CORRUPT where the stream ends before. */
int frames_at_read(struct frames_at *f, uint64_t at, void *out, size_t n,
		   struct err *err) must_check;
uint64_t frames_at_bytes(const struct frames_at *f); /* of the stream */

#endif
