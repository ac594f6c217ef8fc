/* undo redo */
#include "manager/do.h"

enum { STEPS_MAX = 10000 };

static int
step(enum want_kind kind, struct conn *c, const struct request *r, struct session *s,
     struct asker *asker, struct err *err)
{
	const uint64_t steps = request_number(r, "steps", 1);

	if (steps < 1 || steps > STEPS_MAX)
		return err_set(err, ERR_USAGE, "1 to %d steps", STEPS_MAX);
	return do_act(kind, NULL, c, r, s, asker, err);
}

int
do_undo(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	struct asker *asker, struct err *err)
{
	(void)m;
	return step(WANT_UNDO, c, r, s, asker, err);
}

int
do_redo(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	struct asker *asker, struct err *err)
{
	(void)m;
	return step(WANT_REDO, c, r, s, asker, err);
}
