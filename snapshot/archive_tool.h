/* berth-archive, the library's own tool: what its commands share.
 *
 *   archive.c         the command line, capture and unpack    archive_list.c    what a store holds,
 * ls archive_verify.c  verify                                  archive_tell.c    progress, JSON,
 * sizes
 *
 * A command gets its words and its options judged, and the store open. It reads a store that a
 * server uses at the same time: it takes no lock there and removes nothing of it. */
#ifndef BERTH_ARCHIVE_TOOL_H
#define BERTH_ARCHIVE_TOOL_H

#include "layer.h"
#include "oci.h"

#include <jansson.h>

#define auto_json __attribute__((cleanup(archive_json_freep))) json_t
static inline void
archive_json_freep(json_t **j)
{
	json_decref(*j);
}

struct archive_job {
	const char *store_path; /* lent */
	int store;              /* owned */
	const char *words[3];   /* lent; of the command line, without the store */
	const char *parent, *name, *note;
	bool json, again;
	struct layer_options o; /* its watch shows progress */
};

/* ---- archive_list.c ---- */
struct archive_snapshot {
	struct digest digest;
	struct manifest m; /* owned; empty when broken */
	char *name, *note; /* owned; of its ref */
	bool broken;
	struct err why; /* of a broken one */
};

struct archive_list {
	struct archive_snapshot *at; /* owned; the oldest first */
	size_t n, cap;
};

#define auto_archive_list __attribute__((cleanup(archive_list_done))) struct archive_list
/* All snapshots that have a ref. One that cannot be read is in it too, as broken. */
int archive_list_load(int store, struct archive_list *out, struct err *err) must_check;
void archive_list_done(struct archive_list *l);
/* A digest, a prefix of one (6 digits or more), the name of a snapshot or of a session (its newest
 * snapshot). Exactly one of *out and *out_layer is there then: a snapshot, or one layer of any.
 *   fails   ABSENT, USAGE when several are meant */
int archive_list_find(const struct archive_list *l, const char *what,
		      const struct archive_snapshot **out, const struct manifest_layer **out_layer,
		      struct err *err) must_check;
int archive_ls(struct archive_job *job, struct err *err) must_check;

/* ---- archive_verify.c ---- */
/* Broken things are said one by one, as they are found; it fails with CORRUPT when there was any.
 */
int archive_verify(struct archive_job *job, struct err *err) must_check;

/* ---- archive_tell.c ---- */
/* Shows how far a job is, on a terminal. Also how SIGINT and SIGTERM end a job, which cleans up. */
void archive_tell_begin(struct archive_job *job, const char *doing);
void archive_tell_end(void); /* before anything else is printed */
void archive_tell_size(uint64_t bytes, char out[16]);
/* One line of JSON on stdout. Takes j. */
int archive_tell_json(json_t *j, struct err *err) must_check;
json_t *archive_tell_digest(const struct digest *d); /* "sha256:…" */

#endif
