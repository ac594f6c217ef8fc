/* What libssh does may never end: of a channel whose client takes packets of 10 bytes at most it sends
 * empty ones for ever (channel_write_common, 0.10), and it tells nobody what a client takes. So a step
 * that takes seconds of the processor ends its process, which is this client's alone. Time that is
 * waited does not count. */
#include "conn.h"

#include <signal.h>
#include <sys/time.h>
#include <unistd.h>

enum { STUCK_S = 3 }; /* a piece takes a millisecond */

static volatile sig_atomic_t steps, seen = -1;

static void
on_tick(int signal)
{
	static const char words[] = "berth-conn: a step does not end: the connection does\n";

	(void)signal;
	if (seen == steps) {
		const ssize_t ignored = write(STDERR_FILENO, words, sizeof words - 1);
		(void)ignored;
		_exit(err_exit(ERR_UNAVAILABLE));
	}
	seen = steps;
}

void
stuck_watch(void)
{
	const struct itimerval each = {{.tv_sec = STUCK_S}, {.tv_sec = STUCK_S}};
	struct sigaction action = {.sa_handler = on_tick, .sa_flags = SA_RESTART};

	sigaction(SIGPROF, &action, NULL);
	setitimer(ITIMER_PROF, &each, NULL);
}

void
stuck_step(void)
{
	steps = (steps + 1) & 0xffff;
}
