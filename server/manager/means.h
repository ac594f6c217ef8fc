/* How a session's disk limit is held: by the best means that the store offers.
 *
 *   QUOTA   a project quota of the store's filesystem: each upper is a project
 *   LOOP    a volume (volume.h) in upper.N/image, mounted in place of the directory
 *   WATCH   nothing but the watcher (disk.h), which is beneath the other two as well: it alone
 *           guards the store's reserve
 *
 *  1. chosen for an upper when it is made, and kept for its life: what limits it later can be only
 *     as good as that, and `show` says what would be better and when it comes;
 *  2. what cannot be had costs a start nothing but words: the next means takes its place. A volume
 *     that holds files and cannot be mounted is an error, and they are kept. */
#ifndef BERTH_MEANS_H
#define BERTH_MEANS_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct manager;
struct session;

enum disk_means { MEANS_WATCH, MEANS_QUOTA, MEANS_LOOP, MEANS };
enum { MEANS_WHY_BYTES = 200 };

/* Of a session that runs, or that is being started. */
struct disk_place {
	bool set;
	enum disk_means means;
	int root;   /* owned, -1: upper.N as its filesystem shows it */
	int file;   /* owned, -1: its volume */
	int number; /* of the loop device */
	uint32_t project;
	uint64_t bytes;            /* that the means holds it to; 0: it does not */
	char why[MEANS_WHY_BYTES]; /* why there is no better means; empty: there is none */
};

struct disk_used {
	uint64_t bytes, owed; /* owed: of these, not yet taken from the store's free space */
};

/* Probes what the option disk_means allows. CONFIG names a value that is none, or a means that was
 * asked for by name and cannot be had. */
int means_begin(struct manager *m, struct err *err) must_check;
void means_end(struct manager *m);
const char *means_name(enum disk_means k);

/* Before a start: makes ready the place of upper.N, which may be there already.
 *   *out_volume   owned: the detached mount that is the place of fs and work; -1: upper.N itself */
int means_place(struct session *s, int *out_volume, struct err *err) must_check;
/* The same for a session that runs already, under an earlier manager. */
int means_find(struct session *s, struct err *err) must_check;
/* Holds it to its limit from now on, and tells its keeper by what. */
int means_apply(struct session *s, struct err *err) must_check;
/* Nobody runs in it any more. */
void means_forget(struct session *s);
/* -1: the means counts nothing. */
int means_read(const struct session *s, struct disk_used *out);
/* The directory upper.N/fs, whatever it is in.
 *   *out_volume   owned: the mount it is in, -1: none; NULL: not wanted */
int means_open_fs(struct session *s, unsigned n, int *out_volume, struct err *err) must_check;
/* "a loop image (no project quota: …)" */
void means_say(const struct session *s, struct buf *out);

#endif
