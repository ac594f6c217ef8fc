/* The directories below the upper of a workspace, from the top: of s->layers, which its caller has loaded. */
#ifndef BERTH_STACK_H
#define BERTH_STACK_H

#include "manager/session.h"

struct lowers {
	int at[LOWERS_MAX];     /* owned, the topmost first */
	int volume[LOWERS_MAX]; /* owned: the mount whose fs/ that is, or -1 */
	size_t n_volumes;
	size_t n;
	bool missing;
	bool too_many; /* for one mount: kept uppers that stand for many layers could not be used */
	size_t missing_layer; /* index into s->layers, or n_layers: the flattened one */
};

/* Which of the layers come from one flattened directory: s->n_flat, s->flat. */
int stack_plan(struct session *s, struct err *err) must_check;
/* The same of any n layers, none of which a kept upper stands for: how many, and its name. */
size_t stack_flat(const struct manager *m, const struct layer_row *layers, size_t n,
		  struct digest *out);
/* Opens them all, or says which is not there. */
int stack_find(struct session *s, struct lowers *out, struct err *err) must_check;
void stack_close(struct lowers *l);

#endif
