/* Invariant: in init the descriptors are close-on-exec and live until the next init_exec was answered or
 * begun, so no other call's process has them. */
#include "loaded.h"

#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { FILES = 3, PROGRAM = FILES, ALL, FIRST = 3, OUT_OF_THE_WAY = 100 };

static int held[ALL] = {-1, -1, -1, -1}; /* owned */
static uint32_t held_for;

void
loaded_take(struct wire *w)
{
	loaded_drop();
	held_for = w->message.init_loaded.call;
	for (int i = 0; i < ALL; i++)
		held[i] = fd_steal(&w->message.fds[i]);
}

bool
loaded_is_for(uint32_t call)
{
	return held[PROGRAM] >= 0 && held_for == call;
}

void
loaded_drop(void)
{
	for (int i = 0; i < ALL; i++)
		fd_close(&held[i]);
}

int
loaded_lay_out(void)
{
	int far[ALL];

	/* first all away from where they go: each may lie where another belongs */
	for (int i = 0; i < ALL; i++) {
		far[i] = fcntl(held[i], F_DUPFD_CLOEXEC, OUT_OF_THE_WAY);
		if (far[i] < 0)
			return -1;
	}
	for (int i = 0; i < ALL; i++)
		if (dup3(far[i], FIRST + i, i == PROGRAM ? O_CLOEXEC : 0) < 0)
			return -1;
	if (syscall(SYS_close_range, (unsigned)(FIRST + ALL), ~0u, 0u) < 0)
		for (int fd = FIRST + ALL; fd < 1024; fd++)
			close(fd);
	return 0;
}

int
loaded_exec(char *const *argv, char *const *env)
{
	syscall(SYS_execveat, FIRST + PROGRAM, "", argv, env, AT_EMPTY_PATH);
	return errno;
}
