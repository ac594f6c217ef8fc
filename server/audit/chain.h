/* The audit log's bytes: who writes it (the manager) and who checks it (berth-verify-audit) share
 * this and signature.h.
 *
 *   file    STATE/audit/<20 digits: the number of its first line>.jsonl, 0600, only appended to
 *   line    {"seq":N,"prev":"H","time":"T","kind":"K"[,FIELDS]}\n        at most CHAIN_LINE_MAX_BYTES
 *             seq   1, 2, 3, … over all files
 *             prev  sha256 of the line before, without its newline; 64 zeros for line 1
 *   head    a line of kind head: FIELDS are "key":"BASE64","sig":"128 HEX". sig is ed25519 by the
 *           host key over CHAIN_SIGNED and the line's bytes before `,"sig":`; key is the host key as
 *           its .pub file has it
 *   cut     what stands in a file behind its last whole line (a crash tore it) is left there; the next
 *           file begins with a line of kind cut: "file", "bytes" and "sha256" of what was left
 *
 * A file ends with a head, or is the last one, or is followed by one that begins with a cut. Between
 * two heads are at most CHAIN_HEAD_LINES_MAX lines. */
#ifndef BERTH_CHAIN_H
#define BERTH_CHAIN_H

#include "base/buf.h"
#include "base/digest.h"
#include "base/err.h"

#include <stdint.h>

enum {
	CHAIN_LINE_MAX_BYTES = 128 << 10,
	CHAIN_HEAD_LINES_MAX = 1024,
	CHAIN_FILE_NAME_BYTES = 32,
	CHAIN_FILES_MAX = 1 << 20,
};
#define CHAIN_SIGNED "berth audit head 1\n"

/* Where a log ends: what the next line is bound to. Zero: an empty log. */
struct chain {
	uint64_t seq;       /* of the last line */
	struct digest last; /* of its bytes */
};

/* A line taken apart; views into it. */
struct chain_line {
	uint64_t seq;
	struct digest prev;
	struct str time, kind, fields; /* fields: without the comma before them */
};

/* The next line, with its newline. fields: JSON members, lent; may be empty. */
void chain_format(struct buf *out, const struct chain *c, uint64_t real_ns, const char *kind,
		  struct str fields);
/* line: without its newline. CORRUPT: not of this form. */
int chain_parse(struct str line, struct chain_line *out, struct err *err) must_check;
/* The chain behind this line. */
void chain_advance(struct chain *c, uint64_t seq, struct str line);

/* ---- files ---- */

void chain_file_name(uint64_t first, char out[CHAIN_FILE_NAME_BYTES]);
int chain_file_parse(const char *name, uint64_t *out, struct err *err) must_check;

struct chain_files {
	uint64_t *first; /* owned: in order */
	size_t n, cap;
	char stranger[64]; /* a name that ends in .jsonl and is none of ours; empty: there is none */
};

int chain_list(int dir, struct chain_files *out, struct err *err) must_check;
void chain_files_done(struct chain_files *f);

/* ---- lines of a file ---- */

struct chain_reader {
	int fd;     /* lent */
	char *room; /* owned */
	size_t at, have;
	uint64_t offset; /* of room[at] in the file */
	bool ended;
};

struct chain_reader chain_reader_new(int fd);
void chain_reader_done(struct chain_reader *r);
enum chain_read { CHAIN_END, CHAIN_WHOLE, CHAIN_TORN };
/* The next line, lent until the next call.
 *   returns   CHAIN_WHOLE; CHAIN_TORN: bytes without a newline, or more of them than a line has, of
 *             which `out` is a beginning; CHAIN_END; -1 */
int chain_next(struct chain_reader *r, struct str *out, struct err *err) must_check;

struct chain_torn {
	uint64_t bytes;
	struct digest sum;
};
/* All bytes from an offset on. */
int chain_sum_rest(int fd, uint64_t offset, struct chain_torn *out, struct err *err) must_check;
/* The fields of a line of kind cut. */
void chain_cut_fields(struct buf *out, const char *file, const struct chain_torn *t);

#endif
