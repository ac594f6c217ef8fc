/* Invariants
 *  1. the process is a copy of the manager, with its memory and its rights, and does one thing: it must
 *     not outlive the manager, and returns to no code of ours;
 *  2. of its answer, only what was asked for is taken; both ends are the same program, so its bytes
 *     are its meaning. */
#include "building.h"
#include "base/fd.h"
#include "base/log.h"
#include "manager/session.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

struct building {
	struct watch watch;
	int socket; /* owned */
	int pidfd;  /* owned; the process is reaped by SIGCHLD */
};

struct answer {
	struct err why; /* ERR_NONE: there are fds beside this, in the order of the bits of `slots` */
	uint64_t slots;
};

_Static_assert(KEEPER_FDS <= 64, "a bit a slot");

union fd_room {
	char bytes[CMSG_SPACE(KEEPER_FDS * sizeof(int))];
	struct cmsghdr aligned;
};

/* ---- in the building process ---- */

static _Noreturn void
answer_and_exit(int socket, struct answer *a, const int fds[KEEPER_FDS])
{
	union fd_room room = {{0}};
	int list[KEEPER_FDS];
	size_t n = 0;

	for (int i = 0; i < KEEPER_FDS && a->why.code == ERR_NONE; i++)
		if (fds[i] >= 0) {
			a->slots |= 1ull << i;
			list[n++] = fds[i];
		}
	struct iovec part = {a, sizeof *a};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
	if (n) {
		message.msg_control = room.bytes;
		message.msg_controllen = CMSG_SPACE(n * sizeof *list);
		struct cmsghdr *head = CMSG_FIRSTHDR(&message);
		*head = (struct cmsghdr){.cmsg_len = CMSG_LEN(n * sizeof *list),
					 .cmsg_level = SOL_SOCKET,
					 .cmsg_type = SCM_RIGHTS};
		memcpy(CMSG_DATA(head), list, n * sizeof *list);
	}
	_exit(sendmsg(socket, &message, MSG_NOSIGNAL) < 0);
}

static _Noreturn void
build(const struct session *s, struct workspace w, int spill, int socket, pid_t manager)
{
	struct answer a = {.why.code = ERR_NONE};
	int fds[KEEPER_FDS];

	if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0 || getppid() != manager)
		_exit(1);
	for (int i = 0; i < KEEPER_FDS; i++)
		fds[i] = -1;
	w.alone = true;
	fds[KEEPER_SPILL] = spill;
	if (prepare_workspace(&s->m->node, &w, spill, fds, &a.why) == 0) {
		a.why = (struct err){.code = ERR_NONE}; /* a first try may have failed and been mended */
		if (!w.view)
			session_note_mounts(s, w.mounts, &fds[KEEPER_MOUNTS]);
	}
	answer_and_exit(socket, &a, fds);
}

/* ---- in the manager ---- */

static int
receive(int socket, int fds[KEEPER_FDS], struct err *err)
{
	union fd_room room;
	struct answer a;
	struct iovec part = {&a, sizeof a};
	struct msghdr message = {.msg_iov = &part,
				 .msg_iovlen = 1,
				 .msg_control = room.bytes,
				 .msg_controllen = sizeof room.bytes};
	const ssize_t got = recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);

	if (got != sizeof a)
		return err_set(err, ERR_INTERNAL, "the process that mounts the workspace has died");
	if (a.why.code != ERR_NONE) {
		*err = a.why;
		return -1;
	}
	const struct cmsghdr *head = CMSG_FIRSTHDR(&message);
	const size_t n = (size_t)__builtin_popcountll(a.slots);
	if (!head || head->cmsg_type != SCM_RIGHTS || head->cmsg_len != CMSG_LEN(n * sizeof(int)))
		return err_set(err, ERR_INTERNAL, "the workspace came without its fds");
	const unsigned char *at = CMSG_DATA(head);
	for (int i = 0; i < KEEPER_FDS; i++)
		if (a.slots >> i & 1) {
			memcpy(&fds[i], at, sizeof fds[i]);
			at += sizeof fds[i];
		}
	return 0;
}

void
building_cut(struct session *s)
{
	if (s->building && s->building->pidfd >= 0)
		syscall(SYS_pidfd_send_signal, s->building->pidfd, SIGKILL, NULL, 0);
}

static void
forget(struct session *s)
{
	struct building *b = s->building;

	if (!b)
		return;
	building_cut(s);
	s->building = NULL;
	watch_remove(&b->watch);
	fd_close(&b->socket);
	fd_close(&b->pidfd);
	loop_defer(&s->m->loop, free, b);
}

static void
on_answer(void *ctx, uint32_t events)
{
	struct session *s = ctx;
	int fds[KEEPER_FDS];
	struct err err;

	(void)events;
	for (int i = 0; i < KEEPER_FDS; i++)
		fds[i] = -1;
	const int result = receive(s->building->socket, fds, &err);
	forget(s); /* it has done its work, or is dead */
	if (s->step == STEP_VIEW)
		session_put_built(s, fds[KEEPER_ROOTFS], result < 0 ? &err : NULL);
	else
		session_run_built(s, fds, result < 0 ? &err : NULL);
	for (int i = 0; i < KEEPER_FDS; i++)
		fd_close(&fds[i]);
}

#define DEATH_MAX_MS 10000

void
building_end(struct session *s)
{
	struct pollfd p = {.fd = s->building ? s->building->pidfd : -1, .events = POLLIN};

	building_cut(s);
	if (p.fd >= 0 && poll(&p, 1, DEATH_MAX_MS) <= 0)
		log_line("session %s: the process that mounts it does not die", s->row.id);
	forget(s);
}

int
building_begin(struct session *s, const struct workspace *w, int spill, struct err *err)
{
	int ends[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		return err_sys(err, errno, "make a socket for the workspace");
	auto_close int theirs = ends[1];
	struct building *b = xnew(1, sizeof *b);
	*b = (struct building){.socket = ends[0], .pidfd = -1};
	s->building = b;
	const pid_t manager = getpid(), pid = fork();
	if (pid == 0)
		build(s, *w, spill, theirs, manager);
	if (pid > 0)
		b->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (b->pidfd < 0)
		err_sys(err, errno, "start a process that mounts the workspace");
	if (b->pidfd < 0 ||
	    watch_add(&s->m->loop, &b->watch, b->socket, EPOLLIN, on_answer, s, err) < 0) {
		building_end(s);
		return -1;
	}
	return 0;
}
