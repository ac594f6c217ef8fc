/* What the next call needs of the file system, made while the one before starts: the file of its journal
 * and the place of its processes. Neither is known to anybody else before it is taken. */
#include "keeper.h"

#include "base/fd.h"

static void
make(void *ctx)
{
	struct keeper *k = ctx;
	struct ahead *a = &k->ahead;
	struct err ignored; /* who needs it tries once more, and tells */

	if (k->ended || a->file >= 0)
		return;
	id_new("c_", a->call);
	a->file = journal_create(k->fds[KEEPER_CALLS], a->call, &ignored);
	if (a->file >= 0 && k->engine->call_begin(&k->box, a->call, &a->place, &ignored) < 0)
		a->place = -1;
}

void
ahead_make(struct keeper *k)
{
	loop_defer(&k->loop, make, k);
}

void
ahead_take(struct keeper *k, char out_call[ID_BYTES], int *out_file, int *out_place)
{
	struct ahead *a = &k->ahead;

	if (a->file < 0) {
		id_new("c_", out_call);
		return;
	}
	memcpy(out_call, a->call, ID_BYTES);
	*out_file = fd_steal(&a->file);
	*out_place = fd_steal(&a->place);
}

void
ahead_drop(struct keeper *k)
{
	struct ahead *a = &k->ahead;
	struct err ignored;

	if (a->file < 0)
		return;
	if (a->place >= 0)
		(void)!k->engine->call_end(&k->box, a->call, &ignored);
	journal_remove(k->fds[KEEPER_CALLS], a->call);
	fd_close(&a->file);
	fd_close(&a->place);
}
