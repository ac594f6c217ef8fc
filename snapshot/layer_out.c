#include "layer_out.h"
#include "base/fd.h"
#include "base/path.h"

#include <fcntl.h>
#include <stdio.h>

enum { STEP_ENTRIES = 64 };

int
layer_out_begin(struct layer_out *l, const struct layer_options *o, struct err *err)
{
	*l = (struct layer_out){.o = *o, .blob = BLOB_WRITER_NONE, .index = BLOB_WRITER_NONE};
	if (blob_begin(o->store, &l->blob, err) < 0 || blob_begin(o->store, &l->index, err) < 0)
		return -1;
	l->frames = frames_writer_new(l->blob.fd, o->level, o->threads, err);
	if (!l->frames)
		return -1;
	tar_writer_init(&l->tar, l->frames);
	l->idx = idx_writer_new(l->index.fd, err);
	return l->idx ? 0 : -1;
}

void
layer_out_done(struct layer_out *l)
{
	frames_writer_free(l->frames); /* before the fd that its thread writes to */
	idx_writer_free(l->idx);
	tar_writer_done(&l->tar);
	blob_abort(&l->blob);
	blob_abort(&l->index);
	l->frames = NULL;
	l->idx = NULL;
}

static int
step(void *ctx, uint64_t bytes, struct err *err)
{
	struct layer_out *l = ctx;
	const struct layer_watch *w = &l->o.watch;

	l->counts.raw_bytes += bytes;
	l->stepped_at = l->counts.entries;
	return w->step ? w->step(w->ctx, l->counts.raw_bytes, l->counts.entries, err) : 0;
}

int
layer_out_put(struct layer_out *l, const struct entry *e, int fd, bool *out_torn, struct err *err)
{
	uint64_t data_at;

	*out_torn = false;
	if (tar_put(&l->tar, e, &data_at, err) < 0)
		return blob_say_space(&l->blob, err);
	if (e->type == ENTRY_FILE && tar_put_file(&l->tar, e, fd, step, l, out_torn, err) < 0)
		return blob_say_space(&l->blob, err);
	if (idx_put(l->idx, e, data_at, err) < 0)
		return blob_say_space(&l->index, err);
	l->counts.entries++;
	l->counts.files += e->type == ENTRY_FILE;
	l->counts.torn += *out_torn;
	return l->counts.entries - l->stepped_at >= STEP_ENTRIES ? step(l, 0, err) : 0;
}

int
layer_out_commit(struct layer_out *l, struct frames_sum *out, struct err *err)
{
	struct frames_sum sum;

	if (tar_end(&l->tar, err) < 0 || frames_finish(l->frames, &sum, err) < 0)
		return blob_say_space(&l->blob, err);
	if (idx_finish(l->idx, &sum, err) < 0)
		return blob_say_space(&l->index, err);
	if (step(l, 0, err) < 0) /* the last chance to cancel before it has a name */
		return -1;

	char name[80];
	snprintf(name, sizeof name, "%s.idx", digest_text(&sum.digest).text);
	auto_close int idx = path_open(l->o.store, "idx", O_RDONLY | O_DIRECTORY, err);
	if (idx < 0)
		return -1;
	auto_close int hold =
	    blob_hold(l->o.store, false, err); /* the two together, for a collector */
	if (hold < 0)
		return -1;
	/* The index first: an archive that is there has one. */
	if (blob_commit_as(&l->index, idx, name, err) < 0 ||
	    blob_commit(&l->blob, l->o.store, &sum.digest, err) < 0)
		return err_add(err, "layer %.12s", name);
	l->counts.bytes = sum.bytes;
	l->counts.raw_bytes = sum.raw_bytes;
	*out = sum;
	return 0;
}
