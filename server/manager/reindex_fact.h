/* What a worker tells of the store (recall.h there), as rows of an index that is being made. */
#ifndef BERTH_REINDEX_FACT_H
#define BERTH_REINDEX_FACT_H

#include "manager/manager.h"

struct reindex_own;

struct reindex_facts {
	struct manager *m;
	struct index *index;  /* lent; a transaction is under way */
	struct digest *chain; /* owned: layers of the snapshot to come */
	size_t n_chain, chain_cap;
	bool *slots; /* owned: which are taken */
	struct reindex_own *own; /* owned: a list */
	unsigned n_sessions, n_snapshots, n_images, n_faults;
};

void reindex_facts_done(struct reindex_facts *f);
int reindex_fact(struct reindex_facts *f, struct str kind, struct str pairs,
		 struct err *err) must_check;
/* Directories of sessions that no ref tells of: their files must be found again. */
int reindex_strays(struct reindex_facts *f, struct err *err) must_check;
/* A head that is not there becomes the newest snapshot that is. */
int reindex_heads(struct reindex_facts *f, struct err *err) must_check;

#endif
