/* Invariants
 *  1. O_NONBLOCK is set before each call; who clears it between the two wins one wait, which a
 *     timer ends;
 *  2. the timer runs only between begin and end, and repeats: an alarm that comes too early is no
 *     loss, and one that comes stays pending until the call has returned, whatever it closes. */
#include "guard.h"
#include "err.h"
#include "fd.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum { WAIT_MAX_US = 100000 };

static void
on_alarm(int number)
{
	(void)number; /* that it interrupts is all */
}

static int depth;

void
guard_begin(void)
{
	static bool ready;
	const struct itimerval every = {{0, WAIT_MAX_US}, {0, WAIT_MAX_US}};

	if (depth++)
		return;
	if (!ready) {
		const struct sigaction interrupt = {.sa_handler = on_alarm}; /* no SA_RESTART */
		sigaction(SIGALRM, &interrupt, NULL);
		ready = true;
	}
	setitimer(ITIMER_REAL, &every, NULL);
}

void
guard_end(void)
{
	static const struct itimerval never;
	const int saved = errno;

	if (--depth == 0)
		setitimer(ITIMER_REAL, &never, NULL);
	errno = saved;
}

static void
begin(int fd)
{
	struct err ignored;

	guard_begin();
	(void)!fd_set_nonblock(fd, &ignored);
}

static ssize_t
end(ssize_t result)
{
	const int why = result < 0 && errno == EINTR ? EAGAIN : errno;

	guard_end();
	errno = why;
	return result;
}

ssize_t
guard_read(int fd, void *out, size_t n)
{
	begin(fd);
	return end(read(fd, out, n));
}

ssize_t
guard_write(int fd, const void *at, size_t n)
{
	begin(fd);
	return end(write(fd, at, n));
}

void
guard_close(int *fd)
{
	static const struct linger not ;
	const int saved = errno;

	if (*fd >= 0) {
		guard_begin();
		/* mostly it does not come to a wait; who sets it again in between wins one */
		setsockopt(*fd, SOL_SOCKET, SO_LINGER, &not, sizeof not );
		close(*fd);
		guard_end();
	}
	*fd = -1;
	errno = saved;
}
