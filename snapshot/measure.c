#include "measure.h"
#include "walk.h"

enum { BLOCK_BYTES = 512 }; /* of st_blocks, whatever the filesystem's own are */

struct sum {
	uint64_t bytes, entries;
};

/* Each name of a file bears its part of it: together they are the whole, without a table. */
static int
add_entry(void *ctx, const struct walk_entry *e, struct err *err)
{
	struct sum *sum = ctx;
	const uint64_t names = S_ISDIR(e->st.st_mode) || e->st.st_nlink == 0 ? 1 : e->st.st_nlink;

	(void)err;
	sum->bytes += (uint64_t)e->st.st_blocks * BLOCK_BYTES / names;
	sum->entries++;
	return 0;
}

static int
leave_dir(void *ctx, struct str dir, struct err *err)
{
	(void)ctx;
	(void)dir;
	(void)err;
	return 0;
}

int
measure_upper(int upper, uint64_t *out_bytes, uint64_t *out_entries, struct err *err)
{
	static const struct walk_calls calls = {add_entry, leave_dir};
	struct sum sum = {0};
	uint64_t skipped;

	if (walk_tree(upper, &calls, &sum, &skipped, err) < 0)
		return err_add(err, "measure the upper");
	*out_bytes = sum.bytes;
	*out_entries = sum.entries;
	return 0;
}
