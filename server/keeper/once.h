/* Keys of calls (BERTH_CALL): a command that was asked for with a key is begun once.
 *
 *  1. a key is on the disk, synced, before its command is begun; so who finds a key without the END
 *     of its call has found a call that a crash has cut, and begins nothing;
 *  2. it is in the file that has the name: what fails between a file and its name closes that
 *     file, and no key is kept before it was opened, and its directory synced, anew;
 *  3. a key lives as long as the journal of its call: once_drop comes before the journal is removed;
 *  4. bytes on disk (calls/keys): records of ONCE_RECORD_BYTES, one behind the other: "BERTHK1\n",
 *     sha256 of the key (32), sha256 of what was asked (32), call id (24, NUL-padded), u64 created
 *     (realtime, ns, little endian), the key (128, NUL-padded), the first 24 bytes of the sha256 of
 *     all before them. What is no such record is passed over: a crash left it, and its call never
 *     began. */
#ifndef BERTH_ONCE_H
#define BERTH_ONCE_H

#include "base/digest.h"
#include "base/err.h"
#include "base/num.h"

#include <stdbool.h>
#include <stdint.h>

#define ONCE_NAME "keys"
enum { ONCE_RECORD_BYTES = 256, ONCE_KEY_BYTES = 128, ONCE_KEYS_MAX = 65536 };

struct once_key {
	struct digest key, request;
	char call[ID_BYTES];
};

struct once {
	int fd, dir;           /* fd: owned, -1: not open; dir: lent */
	struct once_key *keys; /* owned, the oldest first */
	size_t n, room;
	uint64_t end_at; /* where the next record goes */
	bool unsure;     /* that ONCE_NAME is fd's file, and durably: nothing is kept until it is */
};

/* Reads calls/keys, which is made with the first key. */
int once_open(struct once *o, int calls_dir, struct err *err) must_check;
void once_close(struct once *o);
const struct once_key *once_find(const struct once *o, struct str key);
/* Whether a key can be kept now; else why not. */
int once_ready(struct once *o, struct err *err) must_check;
/* Durable when it returns 0. key: 1 to ONCE_KEY_BYTES. */
int once_add(struct once *o, struct str key, const struct digest *request, const char *call,
	     struct err *err) must_check;
/* The newest one, whose call could not be begun after all. Where that fails the key stays, and
 * answers that its call is lost. */
void once_take_back(struct once *o);
/* Those whose call is `gone`, durably. */
int once_drop(struct once *o, bool (*gone)(void *ctx, const char *call), void *ctx,
	      struct err *err) must_check;

#endif
