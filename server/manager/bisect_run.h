/* What the two files of bisect share: what is being searched, and one run of it. */
#ifndef BERTH_BISECT_RUN_H
#define BERTH_BISECT_RUN_H

#include "manager/do.h"

enum { BISECT_RUNS_MAX = 16 };

enum verdict { UNKNOWN, TESTED_NOW, GOOD, BAD, SKIPPED };

struct point {
	struct digest digest;
	enum verdict verdict;
};

struct bisect;

struct run {
	struct bisect *of;
	size_t point;
	struct session *s; /* lent: it tells when it is lost; NULL: no run */
	struct wire wire;
	bool linked;
	char call[ID_BYTES];
	int journal; /* owned */
};

struct bisect {
	struct bisect *next;
	struct manager *m;
	struct asker asker;
	char session[64], principal[128], role[16];
	char *command; /* owned */
	uint64_t timeout_ns;
	bool plain;
	struct point *points; /* owned: the first is good, the last bad */
	size_t n;
	size_t good, bad; /* what is known: the last good one, the first bad one after it */
	size_t parallel, running;
	struct run runs[BISECT_RUNS_MAX];
	bool said; /* what was left to an operator */
};

/* Runs the command on a point. On failure nothing of it is left. */
int bisect_run_begin(struct bisect *b, struct run *r, size_t point, struct err *err) must_check;
/* It ends, whatever it is at. */
void bisect_run_end(struct run *r);

/* ---- do_bisect.c ---- */

/* Its call has ended so. */
void bisect_judge(struct run *r, const struct call_row *row);
/* All of it ends, with these words. */
void bisect_fail(struct bisect *b, struct err *why);

#endif
