/* The directories below the upper of a workspace, from the top: of s->layers, which its caller has loaded. */
#ifndef BERTH_STACK_H
#define BERTH_STACK_H

#include "manager/session.h"

struct lowers {
	int at[LOWERS_MAX];     /* owned, the topmost first */
	int volume[LOWERS_MAX]; /* owned: the mount whose fs/ that is, or -1 */
	size_t n_volumes;
	size_t n;
	/* what a worker must make first: indexes into s->layers, the topmost first; the flattened
	 * one */
	size_t missing[LOWERS_MAX];
	size_t n_missing;
	bool flat_missing;
	bool too_many; /* for one mount: kept uppers that stand for many layers could not be used */
};

/* Which of the layers come from one flattened directory: s->n_flat, s->flat. */
int stack_plan(struct session *s, struct err *err) must_check;
/* The same of any n layers, none of which a kept upper stands for: how many, and its name. */
size_t stack_flat(const struct manager *m, const struct layer_row *layers, size_t n,
		  struct digest *out);
/* Opens them all, or says which are not there. */
int stack_find(struct session *s, struct lowers *out, struct err *err) must_check;
void stack_close(struct lowers *l);
static inline bool
stack_is_whole(const struct lowers *l)
{
	return l->n_missing == 0 && !l->flat_missing;
}

#endif
