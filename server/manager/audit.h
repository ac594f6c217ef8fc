/* The audit log, STATE/audit: what happened, in lines that cannot be changed unseen (audit/chain.h has
 * their form). The manager alone writes it.
 *
 * Invariants:
 *  1. a line is written when what it tells has happened, by one write(2), whole: a SIGKILL loses none.
 *     One that a crash or a full disk tore is taken back, or left where it is and told of by the next;
 *  2. it is synced within a second (audit_sync = soon), or before audit_put returns (always);
 *  3. each start and end of a call is there exactly once, whenever the manager dies: audit_calls.c;
 *  4. what could not be written is counted, said on stderr, and told by a line (kind `unwritten`) as soon as
 *     one can be written. Records of calls are not counted but kept: they wait in their spools;
 *  5. the server never stops serving for want of it. */
#ifndef BERTH_AUDIT_H
#define BERTH_AUDIT_H

#include "audit/chain.h"
#include "audit/signature.h"
#include "base/loop.h"
#include "base/num.h"

struct audit_seen;
struct call_row;

struct audit {
	struct loop *loop;
	struct signature_key *key; /* owned */
	int dir, fd;               /* owned; fd -1: nothing can be written until the end was found anew */
	uint64_t bytes, max_bytes; /* of the file that is written to */
	bool always;
	struct chain chain;
	uint64_t unsigned_lines; /* since the last head */
	struct buf line;         /* owned */
	uint64_t unwritten, unwritten_ns; /* lines, since when */
	bool failing;
	struct timer sync_timer, head_timer, retry_timer;
	bool started;            /* its bytes are on their way to the disk already */
	struct audit_seen *seen; /* owned: audit_calls.c */
	uint64_t opened_ns;
	/* Hears of each line, without its newline, once it is written; must not write one. Or NULL. */
	void (*on_line)(struct str line);
};

struct audit_field {
	const char *key; /* NULL: the last */
	struct str text;
	uint64_t number;
	bool is_number;
};
#define AUDIT_TEXT(k, v)  {.key = (k), .text = str_of(v)}
#define AUDIT_STR(k, v)   {.key = (k), .text = (v)}
#define AUDIT_NUMBER(k, v) {.key = (k), .number = (v), .is_number = true}

struct audit_options {
	uint64_t file_max_bytes;
	const char *sync; /* soon, always */
	const char *isolation; /* for the line that tells of the start */
};

/* The row of the position in the index's table of spools: no session has an id like this. */
#define AUDIT_POSITION "audit"

/* Finds the log's end, or begins one; writes a line of kind start, and a head.
 *   host_key   OpenSSH private key text
 *   position   the last line known to the index (0: none): of those behind it, the calls are
 *              remembered; those up to it that are missing are told of */
int audit_open(struct audit *a, struct loop *loop, int state_dir, struct str host_key,
	       const struct audit_options *options, uint64_t position, struct err *err) must_check;
/* Writes a line of kind stop; signed and synced. Nothing where it was not opened. */
void audit_close(struct audit *a);

/* One line. What cannot be written is counted. Empty texts are left out. */
void audit_put(struct audit *a, const char *kind, const struct audit_field *fields);
#define audit_write(a, kind, ...)                                                                  \
	audit_put(a, kind, (const struct audit_field[]){__VA_ARGS__, {.key = NULL}})

/* ---- audit_calls.c: a start or an end of a call, in a transaction of the index ---- */

/* Writes it, unless that was done by a transaction that failed, or by a manager that died before its
 * end. -1: it could not be written, so the record must not be acknowledged. */
int audit_call(struct audit *a, const struct call_row *row, const char *session_name, bool end,
	       struct err *err) must_check;
/* audit_files.c: what an sftp did to files, a line each (command of the row: wire/transfers.h). */
void audit_files(struct audit *a, const struct call_row *row, const char *session_name);
/* For the same transaction: the line up to which nothing has to be remembered. Waits for the disk
 * with audit_sync = always. */
int audit_calls_position(struct audit *a, uint64_t *out, struct err *err) must_check;
void audit_calls_committed(struct audit *a);
void audit_calls_rolled_back(struct audit *a);
void audit_calls_free(struct audit *a);

/* ---- between the two files ---- */
int audit_append(struct audit *a, const char *kind, const struct audit_field *fields,
		 struct err *err) must_check;
int audit_sync(struct audit *a, struct err *err) must_check;
/* A line that was there already, at start. */
void audit_calls_note(struct audit *a, const struct chain_line *l);

#endif
