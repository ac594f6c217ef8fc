/* One file of keys, whole or not at all. Whoever comes in, or is cut, by half a file has not been
 * judged by what its owner wrote: half a list of keys locks out, half a list of revoked ones lets
 * in.
 *
 * Invariants
 *  1. what is taken was read while nobody had the file open for writing (the kernel tells: a lease
 * is refused), and the file was the same before and after;
 *  2. a file that is gone is gone when it has been so for KEYS_FILE_QUIET: editors take it away,
 * and put the next one in its place. The same of one that is held open and stands still: somebody
 * has forgotten to close it;
 *  3. what cannot be read just now (no fd, no memory) is later; what cannot be read at all is bad.
 */
#ifndef BERTH_KEYS_FILE_H
#define BERTH_KEYS_FILE_H

#include "base/buf.h"
#include "base/err.h"

#include <sys/stat.h>
#include <time.h>

#define KEYS_FILE_QUIET_NS (3 * NS_PER_S)

struct keys_stamp {
	bool there;
	ino_t inode;
	off_t size;
	struct timespec changed;
};

struct keys_file {
	const char *name;
	bool known;   /* something was taken */
	bool settled; /* a change since would show in the stamp */
	struct keys_stamp taken, seen;
	uint64_t seen_ns; /* CLOCK_BOOTTIME: since when it is as `seen`; 0: as it was taken */
};

enum keys_found {
	KEYS_SAME,  /* as it was taken */
	KEYS_LATER, /* not now: ask again within KEYS_FILE_QUIET */
	KEYS_TAKEN, /* out has it; empty where there is no file */
	KEYS_BAD,   /* it cannot be read, err has why */
};

/*   out   is to be empty */
enum keys_found keys_file_look(struct keys_file *f, int dir, struct buf *out,
			       struct err *err) must_check;

#endif
