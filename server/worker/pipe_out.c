#include "pipe_out.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

enum { LOOK_MS = 1000 }; /* that often the manager is told that it still waits */

void
pipe_out_init(struct pipe_out *o, int fd, int manager, const struct layer_watch *watch)
{
	*o = (struct pipe_out){
	    .fd = fd, .manager = manager, .watch = *watch, .bytes = BUF_MAX(2 * PIPE_OUT_BYTES)};
}

void
pipe_out_done(struct pipe_out *o)
{
	buf_free(&o->bytes);
}

/* Until there is room: as long as the reader takes, who is a client. Its end, and the manager's,
 * are told by poll. */
static int
wait_for_room(struct pipe_out *o, struct err *err)
{
	struct pollfd p[2] = {{.fd = o->fd, .events = POLLOUT},
			      {.fd = o->manager, .events = POLLRDHUP}};

	if (poll(p, 2, LOOK_MS) < 0 && errno != EINTR)
		return err_sys(err, errno, "wait for the reader");
	if (p[1].revents & (POLLRDHUP | POLLHUP | POLLERR))
		return err_set(err, ERR_CANCELLED, "the manager went away");
	return o->watch.step ? o->watch.step(o->watch.ctx, 0, 0, err) : 0;
}

static int
write_all(struct pipe_out *o, const char *at, size_t n, struct err *err)
{
	while (n) {
		const ssize_t k = write(o->fd, at, n);
		if (k >= 0) {
			at += k;
			n -= (size_t)k;
			continue;
		}
		if (errno == EPIPE)
			return err_set(err, ERR_CANCELLED, "nobody reads it any more");
		if (errno != EINTR && errno != EAGAIN)
			return err_sys(err, errno, "write");
		if (errno == EAGAIN && wait_for_room(o, err) < 0)
			return -1;
	}
	return 0;
}

int
pipe_out_flush(struct pipe_out *o, struct err *err)
{
	const int result = write_all(o, o->bytes.at, o->bytes.len, err);

	buf_clear(&o->bytes);
	return result;
}

int
pipe_out_put(struct pipe_out *o, const void *bytes, size_t n, struct err *err)
{
	if (o->bytes.len + n > PIPE_OUT_BYTES && pipe_out_flush(o, err) < 0)
		return -1;
	if (n >= PIPE_OUT_BYTES)
		return write_all(o, bytes, n, err);
	buf_add(&o->bytes, bytes, n);
	return buf_bad(&o->bytes) ? err_set(err, ERR_UNAVAILABLE, "no memory to print") : 0;
}

int
pipe_out_text(struct pipe_out *o, const char *text, struct err *err)
{
	return pipe_out_put(o, text, strlen(text), err);
}

int
pipe_out_buf(struct pipe_out *o, const struct buf *b, struct err *err)
{
	if (buf_bad(b))
		return err_set(err, ERR_UNAVAILABLE, "no memory to print");
	return pipe_out_put(o, b->at, b->len, err);
}
