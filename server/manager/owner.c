#include "owner.h"

static int
claim(struct index *ix, struct session_row *row, struct err *err)
{
	row->fence++;
	if (index_put_session(ix, row, err) == 0)
		return 0;
	row->fence--;
	return err_add(err, "claim session %s", row->name);
}

/* There is nobody to give it to: the claim ends with the row's next one. */
static int
release(struct index *ix, struct session_row *row, struct err *err)
{
	return index_put_session(ix, row, err);
}

static int
commit(struct index *ix, const struct session_row *row, const struct digest *expected,
       struct err *err)
{
	return index_move_session(ix, row, expected, err);
}

static uint64_t
deadline_ns(const struct session_row *row)
{
	(void)row;
	return UINT64_MAX;
}

static bool
lost(const struct session_row *row)
{
	(void)row;
	return false;
}

const struct owner owner_index = {
    .name = "index",
    .claim = claim,
    .release = release,
    .commit = commit,
    .deadline_ns = deadline_ns,
    .lost = lost,
};
