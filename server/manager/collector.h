/* The collector: what nothing needs any more goes, by itself now and then, and by the verb gc.
 *
 *   SCAN ─listed▶ decide ▶ WAIT ─older jobs ended▶ REMOVE ▶ TREES ▶ done
 *
 * decide (collect_plan.c) is one transaction: the rows of what goes are dropped, and what the store
 * may lose is written down as dying. A worker then removes exactly what it is given.
 *
 * Invariants
 *  1. what a row refers to is never given to the worker: it is asked again, in the turn in which it
 * is sent, after every job and every act of a session that was under way at the decision has ended
 *     (what those had found or made has its rows by then, or never will);
 *  2. a job that begins later finds a dying blob only if it touches it, and then it stays
 * (collect.h, invariant 1), or does not find it, and writes it anew;
 *  3. rows go before refs, refs before what they tell of: a death in between leaves orphans, which
 * the next collection takes, never a row or a ref without its blobs;
 *  4. nothing is taken from a store that tells of a session which the index does not know;
 *  5. a session that is at work is left alone. */
#ifndef BERTH_COLLECTOR_H
#define BERTH_COLLECTOR_H

#include "manager/conns.h"

/* Begins the timer of automatic collections. */
void collector_begin(struct manager *m);
void collector_end(struct manager *m);
/* Collects, or (dry) says what would go. asker NULL: by itself. AGAIN: one is under way. */
int collector_run(struct manager *m, const struct asker *asker, bool dry,
		  struct err *err) must_check;
/* Something was removed, or got an end: the timer may be due earlier. */
void collector_note(struct manager *m);
/* A worker's job, or a session's act, has ended. */
void collector_job_ended(struct manager *m);
/* What it waits for, for who is told that it is under way; "": nothing. */
const char *collector_waits_for(const struct manager *m);
void collector_forget_conn(const struct conn *c, const uint32_t *seq);

#endif
