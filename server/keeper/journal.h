/* Writes a call's journal: the form is in wire/journal_read.h, whose invariants this file keeps.
 *
 *  1. every byte given is counted and hashed, kept or not;
 *  2. past bound_bytes the middle goes: head (a quarter) and tail (the rest) stay, in whole
 * segments;
 *  3. what the owner channel has not taken is never punched: journal_is_full says when to stop
 *     reading instead. Without an owner it never is; behind the END nothing is punched at all;
 *  4. a frame is whole in the file or not there: one that did not fit the disk is taken back;
 *  5. of each stream that has any bytes a frame stands outside the hole and behind what was lost:
 * one of length 0 where there is no other, so that no gap is silent because nothing came after it.
 */
#ifndef BERTH_JOURNAL_H
#define BERTH_JOURNAL_H

#include "base/buf.h"
#include "base/digest.h"
#include "base/err.h"
#include "wire/journal_read.h"

#include <stdbool.h>
#include <stdint.h>

enum {
	JOURNAL_WRITE_MAX_BYTES = 256 << 10, /* one journal_append */
	JOURNAL_BOUND_LEAST_BYTES = 4 * JOURNAL_SEGMENT_BYTES,
	JOURNAL_LATE_MAX_BYTES = 64 << 10, /* of stream LATE; the rest is dropped */
};

struct journal {
	int fd;      /* owned; -1: closed */
	uint64_t at; /* where the next frame goes, but for the end of a segment */
	uint64_t offset[JOURNAL_STREAMS];
	uint64_t newest[JOURNAL_STREAMS]; /* where the last frame of each begins; 0: none */
	uint64_t bound_bytes, punched_from, punched_to;
	bool owned;          /* an owner channel reads it */
	uint64_t taken;      /* ... and has read up to here */
	uint64_t lost_bytes; /* counted and hashed, but there was no room on the disk */
	bool keeps_no_more;  /* the file system cannot punch holes: only the end follows */
	bool torn;           /* half a frame could not be taken back: nothing follows */
	struct hasher *sum_out, *sum_err; /* owned */
};

struct journal_outcome {
	uint32_t exit_status, signal, exec_errno;
	bool core_dumped;
	const char *ended_by;
	const char *notice; /* what its user was told at the end; NULL: nothing */
};

/* The empty file of a journal, `<call>.j` in dir, 0600: it can take a while where much was deleted lately
 * (ext4 looks at each inode), so it may be made before its call is there. */
int journal_create(int dir, const char *call, struct err *err) must_check;
/* Writes the header; born with an owner.
 *   bound_bytes   raised to JOURNAL_BOUND_LEAST_BYTES
 *   take_file     of journal_create; -1: it is made now */
int journal_open(struct journal *j, int dir, const char *call, uint64_t bound_bytes, int take_file,
		 struct err *err) must_check;
void journal_close(struct journal *j);
/* Takes back the file of a call that did not start. */
void journal_remove(int dir, const char *call);
/* A read-only fd of its own for one more reader. */
int journal_open_reader(int dir, const char *call, struct err *err) must_check;

int journal_start(struct journal *j, const char *call, struct str command, struct str principal,
		  struct err *err) must_check;
/* Appends to OUT or ERR before the end, to LATE after it.
 *   n         at most JOURNAL_WRITE_MAX_BYTES
 *   returns   0; -1 when (some of) it was not kept, with why: it is counted and hashed all the same
 */
int journal_append(struct journal *j, enum journal_stream s, const void *bytes, size_t n,
		   struct err *err) must_check;
int journal_finish(struct journal *j, const struct journal_outcome *o, struct err *err) must_check;

/* Whether the owner must take some before more can be kept (invariant 3). */
bool journal_is_full(const struct journal *j);
/* The owner has read the file up to there; it never goes back. */
void journal_take(struct journal *j, uint64_t file_bytes);
void journal_disown(struct journal *j);
/* It has an owner again, who begins at its start. */
void journal_own(struct journal *j);

/* A text as a JSON string with its quotes; bytes that are not UTF-8 become U+FFFD. */
void journal_add_json(struct buf *b, struct str text);

#endif
