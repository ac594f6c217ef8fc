/* What a reading worker prints: into a pipe that somebody may read slowly, or no more. */
#ifndef BERTH_PIPE_OUT_H
#define BERTH_PIPE_OUT_H

#include "base/buf.h"
#include "base/err.h"
#include "layer.h"

enum { PIPE_OUT_BYTES = 64 * 1024 };

struct pipe_out {
	int fd, manager;          /* lent; the manager's link: its end ends the wait */
	struct layer_watch watch; /* asked while it waits */
	struct buf bytes;
};

void pipe_out_init(struct pipe_out *o, int fd, int manager, const struct layer_watch *watch);
void pipe_out_done(struct pipe_out *o);
/* CANCELLED: nobody reads any more. */
int pipe_out_put(struct pipe_out *o, const void *bytes, size_t n, struct err *err) must_check;
int pipe_out_text(struct pipe_out *o, const char *text, struct err *err) must_check;
int pipe_out_buf(struct pipe_out *o, const struct buf *b, struct err *err) must_check;
int pipe_out_flush(struct pipe_out *o, struct err *err) must_check;

#endif
