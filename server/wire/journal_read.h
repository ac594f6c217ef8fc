/* A call's journal, version 1: its form on disk, and how to read it. The keeper appends
 * (keeper/journal.c); everybody else reads through a read-only fd with pread alone.
 *
 *   file     header, then segments of JOURNAL_SEGMENT_BYTES; the first holds the header too
 *   header   64 bytes: "BERTHJ1\n", call id (24, NUL-padded), u64 created (realtime, ns),
 *            u64 punched_from, u64 punched_to, u32 segment bytes, u32 zero
 *   frame    24 bytes: u8 kind, u8 stream, u16 zero, u32 length, u64 time (realtime, ns),
 *            u64 stream_offset; then length bytes. Numbers are little endian.
 *
 * Invariants:
 *  1. no frame crosses a segment's end: a frame's length fits what is left of its segment. Where
 * less than a header and one byte is left, or kind is NONE, the next frame is at the next segment;
 *  2. within a stream, stream_offset never falls: a frame that starts behind the end of the one
 *     before says that the bytes between are no longer kept. A DATA frame of length 0 says only
 *     where its stream stands;
 *  3. [punched_from, punched_to) are whole segments, punched out; punched_from never changes, and
 *     punched_to is raised before the hole is made. So who finds, after it has read a frame, that
 *     it starts at or behind punched_to, has read what was written;
 *  4. at most one END; before it streams 1 and 2 alone, behind it stream 3 alone;
 *  5. a reader takes nothing on trust: what breaks these rules is ERR_CORRUPT, whatever the bytes
 *     are, and no byte of the file sizes any memory. */
#ifndef BERTH_JOURNAL_READ_H
#define BERTH_JOURNAL_READ_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

enum {
	JOURNAL_HEADER_BYTES = 64,
	JOURNAL_FRAME_BYTES = 24,
	JOURNAL_SEGMENT_BYTES = 1 << 20,
	JOURNAL_ID_BYTES = 24,
};
#define JOURNAL_MAGIC "BERTHJ1\n"

enum journal_kind {
	JOURNAL_NONE,  /* nothing here: go on at the next segment */
	JOURNAL_DATA,  /* bytes of one stream */
	JOURNAL_END,   /* JSON: exit_status, signal, ended_by, totals, sha256 */
	JOURNAL_START, /* JSON: call, command, principal */
};

enum journal_stream {
	JOURNAL_OWN,  /* START and END */
	JOURNAL_OUT,  /* stdout, or all of a PTY */
	JOURNAL_ERR,  /* stderr */
	JOURNAL_LATE, /* both, after the end */
	JOURNAL_STREAMS
};

struct journal_frame {
	enum journal_kind kind; /* never NONE */
	enum journal_stream stream;
	uint64_t time_ns;       /* CLOCK_REALTIME */
	uint64_t stream_offset; /* of the first byte of this piece */
	uint64_t gap_bytes;     /* of this stream, lost before this piece */
	size_t length;          /* bytes in the caller's buffer */
	bool more;              /* the next piece goes on with this frame */
};

struct journal_reader {
	int fd;      /* lent */
	uint64_t at; /* file offset that was read up to: what call_taken reports */
	uint64_t offset[JOURNAL_STREAMS]; /* where each stream stands */
	uint64_t punched_from;            /* 0: the header was not read yet */
	struct journal_frame frame;       /* the one that goes on, when left > 0 */
	uint64_t left;                    /* bytes of it not yet returned */
};

/* Begins at the first frame. The header is checked by the first journal_next. */
void journal_reader_init(struct journal_reader *r, int fd);

/* The next frame, or, where it does not fit, its next piece.
 *   buf       buf_bytes of it, at least 1; out->length bytes are put there
 *   returns   1; 0 there is no whole frame yet (wait for growth, or, when nobody appends any more,
 *             take it as the end); -1 ERR_CORRUPT. The reader stays where it is on 0 and -1.
 *   gaps      are jumped over and told by gap_bytes of the first frame behind them. A frame whose
 *             bytes vanish while it is read counts as gap                                        */
int journal_next(struct journal_reader *r, char *buf, size_t buf_bytes, struct journal_frame *out,
		 struct err *err) must_check;

#endif
