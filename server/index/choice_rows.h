/* The index's rows of what was chosen for a session beside its limits: a key and its text. What a
 * key means is the manager's. */
#ifndef BERTH_CHOICE_ROWS_H
#define BERTH_CHOICE_ROWS_H

#include "rows.h"

/* In the order of their keys, until fn returns other than 0. */
typedef int (*choice_row_fn)(void *ctx, const char *key, const char *value, struct err *err);
int choice_rows_list(struct index *ix, const char *session, choice_row_fn fn, void *ctx,
		     struct err *err) must_check;
int choice_rows_put(struct index *ix, const char *session, const char *key, const char *value,
		    struct err *err) must_check;

#endif
