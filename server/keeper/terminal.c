/* What conn writes to the stdin of a call with a PTY goes through here into the PTY's master; its
 * output is read like any other call's (call.c).
 *
 *  1. bounded: one buffer; while the PTY does not take it, the pipe is not read, so conn waits;
 *  2. at the pipe's end the terminal's end-of-file character goes in, once;
 *  3. the master came from init: its kind is checked, and nothing but bytes and sizes goes to it.
 */
#include "keeper.h"

#include "base/fd.h"
#include "base/guard.h"

#include <errno.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

enum { BUFFERS_AT_ONCE = 16 }; /* before other work of the loop */

static void step(struct terminal *t);

int
terminal_check(int fd, struct err *err)
{
	struct stat st;
	unsigned number;

	if (fstat(fd, &st) < 0)
		return err_sys(err, errno, "look at a terminal");
	if (!S_ISCHR(st.st_mode) || ioctl(fd, TIOCGPTN, &number) < 0)
		return err_set(err, ERR_CORRUPT, "init sent something that is no PTY");
	return 0;
}

int
terminal_open(struct terminal *t, struct loop *l, int master, int take_input, struct err *err)
{
	*t = (struct terminal){.loop = l, .input = take_input, .master = fd_dup(master, err)};
	if (t->master < 0) {
		fd_close(&t->input);
		return -1;
	}
	step(t);
	return 0;
}

void
terminal_close(struct terminal *t)
{
	watch_remove(&t->input_watch);
	watch_remove(&t->master_watch);
	fd_close(&t->input);
	fd_close(&t->master);
}

void
terminal_resize(struct terminal *t, uint32_t columns, uint32_t rows, uint32_t x_pixels,
		uint32_t y_pixels)
{
	const struct winsize size = {
	    .ws_row = (unsigned short)rows,
	    .ws_col = (unsigned short)columns,
	    .ws_xpixel = (unsigned short)x_pixels,
	    .ws_ypixel = (unsigned short)y_pixels,
	};

	if (t->master >= 0)
		ioctl(t->master, TIOCSWINSZ, &size);
}

static void
on_ready(void *ctx, uint32_t events)
{
	(void)events;
	step(ctx);
}

/* In canonical mode the character ends a line that was begun; a second one then ends the input. */
static void
add_end(struct terminal *t)
{
	struct termios mode;
	char end = 4;

	if (tcgetattr(t->master, &mode) == 0 && mode.c_cc[VEOF] != _POSIX_VDISABLE)
		end = (char)mode.c_cc[VEOF];
	t->pending[t->to++] = end;
	if (t->last && t->last != '\n' && t->last != '\r')
		t->pending[t->to++] = end;
	t->end_sent = true;
}

/* Fills the empty buffer: true when there is something to write. */
static bool
take_input(struct terminal *t)
{
	if (t->input < 0)
		return false;
	const ssize_t n = read(t->input, t->pending, sizeof t->pending);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	t->from = t->to = 0;
	if (n > 0) {
		t->to = (size_t)n;
		t->last = t->pending[n - 1];
		return true;
	}
	watch_remove(&t->input_watch);
	fd_close(&t->input);
	if (!t->end_sent)
		add_end(t);
	return true;
}

/* False when the PTY takes no more now. */
static bool
give_pending(struct terminal *t)
{
	while (t->from < t->to) {
		const ssize_t n = guard_write(t->master, t->pending + t->from, t->to - t->from);
		if (n < 0 && errno == EINTR)
			continue;
		if (n == 0 || (n < 0 && errno == EAGAIN))
			return false;
		if (n < 0) { /* EIO: nobody has it open; the bytes go where sshd's would */
			t->from = t->to;
			break;
		}
		t->from += (size_t)n;
	}
	return true;
}

/* Watches exactly one side: the pipe while the buffer is empty, else the PTY. Watches are removed,
 * not silenced: a hang-up is reported even to who waits for nothing. */
static void
step(struct terminal *t)
{
	struct err ignored;
	bool taken = true;

	for (int i = 0; i < BUFFERS_AT_ONCE && taken; i++)
		taken = give_pending(t) && take_input(t);
	if (!give_pending(t)) {
		watch_remove(&t->input_watch);
		if (!t->master_watch.loop && watch_add(t->loop, &t->master_watch, t->master,
						       EPOLLOUT, on_ready, t, &ignored) < 0)
			terminal_close(t);
		return;
	}
	watch_remove(&t->master_watch);
	if (t->input >= 0 && !t->input_watch.loop &&
	    watch_add(t->loop, &t->input_watch, t->input, EPOLLIN, on_ready, t, &ignored) < 0)
		fd_close(&t->input);
}
