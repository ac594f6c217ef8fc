/* Each act of a reading worker: what it prints. */
#ifndef BERTH_READS_PRINT_H
#define BERTH_READS_PRINT_H

#include "find.h"
#include "pipe_out.h"
#include "view.h"
#include "wire/wire.h"

struct reads_snapshot { /* as read_view brought it */
	bool has_digest;
	struct digest digest;
	uint64_t created_ns;
	size_t parent;
	bool live;
	struct digest *layers; /* owned */
	size_t n_layers;
};

struct reads {
	struct layer_options o;
	struct pipe_out out;
	int upper;                 /* lent; -1: none is live */
	struct reads_snapshot *at; /* owned */
	size_t n;
	uint32_t flags;
	uint64_t from, limit;
	struct str path; /* lent; as given, without slashes around it */
};

/* reads_files.c */
struct view *reads_view(struct reads *r, size_t i, struct err *err) must_check;
int reads_files(struct reads *r, struct err *err) must_check;
int reads_cat(struct reads *r, struct err *err) must_check;
/* reads_diff.c */
int reads_diff(struct reads *r, struct err *err) must_check;
/* reads_find.c */
int reads_find(struct reads *r, struct err *err) must_check;

#endif
