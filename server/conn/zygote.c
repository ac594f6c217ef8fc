/* zygote: what connections are forked from.
 *   holds      one socket to the manager; of a connection its two sockets, until its process is forked
 *   may        fork; change uid and gid, and give up capabilities, which its children do at once
 *   never      reads a byte of anybody but the manager, holds a key, has a child of two connections
 *   if taken   (by the manager alone) is what the manager is to connections
 *
 * Relocating libssh and libcrypto costs 0.5 MiB of each process that does it, and milliseconds. Forked from
 * here connections share those pages, and with them the places of all code and the canary of the stack:
 * what one of them lets out would help against another, and a crash would be a free guess. So the zygote
 * executes itself anew, which makes both new, after each LIFE_MAX connections, and after a crash of one.
 * It stays the same process with the same link meanwhile, of the same file: connections are of the version
 * of their manager, whatever was installed since it was started.
 *
 * Random numbers are not shared: OpenSSL's generators seed themselves anew in a process of another number. */
#include "conn/zygote.h"

#include "base/fd.h"
#include "base/log.h"
#include "confine.h"
#include "wire/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <libssh/libssh.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FD_LINK = 3, LIFE_MAX = 64 /* connections */ };

/* Whether one of them has crashed. Which signal it was is no matter: one too many costs milliseconds. */
static bool
reap(void)
{
	bool crashed = false;
	int status;

	while (waitpid(-1, &status, WNOHANG) > 0)
		crashed |= WIFSIGNALED(status);
	return crashed;
}

static void
on_child(int signal)
{
	(void)signal; /* it only ends the wait */
}

static void
set_child_signal(int how, void (*handler)(int))
{
	sigset_t child;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	signal(SIGCHLD, handler);
	sigprocmask(how, &child, NULL);
}

static int
execute_again(struct err *err)
{
	static char name[] = "berth-conn", word[] = ZYGOTE_AGAIN;
	char *const argv[] = {name, word, NULL};

	execv("/proc/self/exe", argv);
	return err_sys(err, errno, "execute berth-conn again");
}

/* Until there is a message: 1, 0 the manager is gone, -1. */
static int
wait_for_manager(struct wire *link, unsigned born, struct err *err)
{
	sigset_t all;

	sigprocmask(SIG_BLOCK, NULL, &all);
	sigdelset(&all, SIGCHLD);
	for (;;) {
		if (reap() || born == LIFE_MAX)
			return execute_again(err);
		const int got = wire_recv(link, err);
		if (got != 0)
			return got < 0 && err->code == ERR_UNAVAILABLE ? 0 : got;
		struct pollfd p = {.fd = link->fd, .events = POLLIN};
		if (ppoll(&p, 1, NULL, &all) < 0 && errno != EINTR)
			return err_sys(err, errno, "wait for the manager");
	}
}

static void
move(int from, int to)
{
	if (from == to)
		return;
	dup3(from, to, O_CLOEXEC);
	close(from);
}

/* In the new process. Received descriptors got the lowest numbers: 4 and 5. */
static void
begin_life(struct wire *link, uid_t *out_uid)
{
	const int manager = fd_steal(&link->message.fds[0]), client = fd_steal(&link->message.fds[1]);

	*out_uid = link->message.conn_start.uid;
	wire_close(link);
	move(manager, FD_MANAGER);
	move(client, FD_CLIENT);
	set_child_signal(SIG_UNBLOCK, SIG_DFL);
	setsid();
	prctl(PR_SET_NAME, "berth-conn", 0, 0, 0);
}

static int
open_link(struct wire *link, bool is_again, struct err *err)
{
	prctl(PR_SET_NAME, "berth-zygote", 0, 0, 0);
	ssh_set_log_level(SSH_LOG_NOLOG); /* its log opens files */
	if (ssh_init() != SSH_OK)
		return err_set(err, ERR_INTERNAL, "libssh does not start");
	set_child_signal(SIG_BLOCK, on_child);
	if (is_again)
		return wire_reopen(link, FD_LINK, ROLE_ZYGOTE, ROLE_MANAGER, PHASE_OPEN, err);
	if (confine_zygote(err) < 0)
		return -1;
	return wire_open(link, FD_LINK, ROLE_ZYGOTE, ROLE_MANAGER, PHASE_OPEN, err);
}

int
zygote_run(bool is_again, uid_t *out_uid, struct err *err)
{
	struct wire link;
	int got;

	if (open_link(&link, is_again, err) < 0)
		return -1;
	for (unsigned born = 0; (got = wait_for_manager(&link, born, err)) == 1; born++) {
		const pid_t pid = fork();
		if (pid == 0) {
			begin_life(&link, out_uid);
			return 1;
		}
		if (pid < 0)
			log_line("no process for a connection: %s", strerrordesc_np(errno));
	}
	wire_close(&link);
	return got;
}
