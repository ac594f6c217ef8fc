/* What goes in one collection: decided of what the worker has listed and of the index, in one
 * transaction (collector.h). */
#ifndef BERTH_COLLECT_PLAN_H
#define BERTH_COLLECT_PLAN_H

#include "manager/manager.h"
#include "wire/collect_word.h"

struct session;

enum gone_kind {
	GONE_SNAPSHOT,
	GONE_SESSION,
	GONE_BLOB,
	GONE_REF,
	GONE_CACHE,
	GONE_UPPER,
	GONE_KINDS
};

/* One thing that goes, as it is told. */
struct gone {
	enum gone_kind kind;
	struct digest digest;   /* not of SESSION and UPPER */
	char session[ID_BYTES]; /* of SNAPSHOT, SESSION, UPPER */
	char name[64];          /* of that session */
	unsigned upper;
	uint64_t bytes;
	const char *why;
};

struct collect_plan {
	struct manager *m;
	bool dry, by_clock;         /* by_clock: ages and ends count */
	uint64_t now_ns;            /* CLOCK_REALTIME */
	struct collect_word *items; /* owned, by digest */
	size_t n, cap;
	uint8_t *marks;    /* owned, one an item: enum plan_mark */
	struct gone *gone; /* owned */
	size_t n_gone, gone_cap;
	size_t unsure;           /* snapshots whose config nobody can name: no blob goes then */
	struct digest unsure_of; /* the first of them */
	uint64_t bytes;          /* of all that goes, as far as it is known */
};

enum plan_mark { PLAN_WAS_ALIVE = 1, PLAN_ALIVE = 2, PLAN_GOES = 4 };

void collect_plan_done(struct collect_plan *p);
void collect_plan_add(struct collect_plan *p, const struct collect_word *w);
/* Decides, and commits that unless it is dry. CORRUPT: store and index are not of one time. */
int collect_plan_decide(struct collect_plan *p, struct err *err) must_check;
/* Marks what is alive now; what has become so since the decision does not go any more. */
int collect_plan_again(struct collect_plan *p, struct err *err) must_check;

/* ---- collect_aside.c: directories ---- */
/* Which kept uppers and cached layers go; rows of uppers are dropped. */
int collect_uppers(struct collect_plan *p, struct err *err) must_check;
int collect_cache(struct collect_plan *p, struct err *err) must_check;
/* Gives what goes another name, at once: nobody comes to it any more. The worker removes it. */
void collect_put_aside(struct collect_plan *p);
/* Directories of sessions that have no row. */
void collect_stray_sessions(struct collect_plan *p);

/* ---- within ---- */
struct gone *collect_plan_gone(struct collect_plan *p, enum gone_kind kind, const char *why,
			       uint64_t bytes);
struct collect_word *collect_plan_find(const struct collect_plan *p, uint8_t kind,
				       const struct digest *d);
bool collect_plan_is_old(const struct collect_plan *p, uint64_t since_ns);
bool collect_is_busy(const struct session *s);

#endif
