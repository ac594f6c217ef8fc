/* Invariants
 *  1. O_NONBLOCK is set before each call; who clears it between the two wins one wait, which a
 *     timer ends;
 *  2. the timer runs only within a call, and repeats: an alarm that comes too early is no loss. */
#include "guard.h"
#include "base/err.h"
#include "base/fd.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/time.h>
#include <unistd.h>

enum { WAIT_MAX_US = 100000 };

static void
on_alarm(int number)
{
	(void)number; /* that it interrupts is all */
}

static void
begin(int fd)
{
	static bool ready;
	const struct itimerval every = {{0, WAIT_MAX_US}, {0, WAIT_MAX_US}};
	struct err ignored;

	if (!ready) {
		const struct sigaction interrupt = {.sa_handler = on_alarm}; /* no SA_RESTART */
		sigaction(SIGALRM, &interrupt, NULL);
		ready = true;
	}
	setitimer(ITIMER_REAL, &every, NULL);
	(void)!fd_set_nonblock(fd, &ignored);
}

static ssize_t
end(ssize_t result)
{
	static const struct itimerval never;
	const int why = result < 0 && errno == EINTR ? EAGAIN : errno;

	setitimer(ITIMER_REAL, &never, NULL);
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
