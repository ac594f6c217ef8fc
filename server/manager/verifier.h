/* verify: a worker reads every layer of some snapshots, and their manifests, configs and refs, one
 * at a time; what is wrong is told with the snapshots that it harms.
 *
 * Invariants
 *  1. one verification at a time;
 *  2. a worker that dies of what it reads is a fault of that file, and the next one goes on;
 *  3. it is a success only when all was read and all is good (repaired counts as good). */
#ifndef BERTH_VERIFIER_H
#define BERTH_VERIFIER_H

#include "manager/conns.h"

void verifier_forget_conn(const struct conn *c, const uint32_t *seq);
void verifier_stop(void);

#endif
