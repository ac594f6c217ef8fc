#include "starting.h"
#include "base/fd.h"
#include "base/time.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#define START_MAX_NS (10 * NS_PER_S)
#define END_MAX_NS   (10 * NS_PER_S)

int
starting_slot(const struct sandbox_spec *spec, enum keeper_fd slot)
{
	struct stat st;
	const int fd = spec->fds[slot];

	if (fd < 0 || fstat(fd, &st) < 0)
		return -1;
	return S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 3) ? -1 : fd;
}

int
starting_load_program(int fd, struct starting_program *out, struct err *err)
{
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return err_set(err, ERR_INTERNAL, "no seccomp program was given");
	if (st.st_size <= 0 || (size_t)st.st_size > sizeof out->code ||
	    (size_t)st.st_size % sizeof *out->code != 0)
		return err_set(err, ERR_INTERNAL, "a seccomp program of %lld bytes",
			       (long long)st.st_size);
	if (fd_pread_all(fd, out->code, (size_t)st.st_size, 0, err) < 0)
		return err_add(err, "the seccomp program");
	out->n = (unsigned short)((size_t)st.st_size / sizeof *out->code);
	return 0;
}

static int
wait_for(int fd, short events, uint64_t deadline_ns)
{
	for (;;) {
		const uint64_t now_ns = time_now_ns();
		if (now_ns >= deadline_ns)
			return 0;
		struct pollfd p = {.fd = fd, .events = events};
		const int n =
		    poll(&p, 1, (int)((deadline_ns - now_ns + NS_PER_MS - 1) / NS_PER_MS));
		if (n > 0)
			return 1;
		if (n < 0 && errno != EINTR)
			return -1;
	}
}

/* One packet of news, with the fd beside it: 1, 0 at its end, -1. */
static int
receive_report(int socket, struct sandbox_report *r, int *out_fd, struct err *err)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr aligned;
	} room;
	struct iovec part = {r, sizeof *r};
	struct msghdr message = {.msg_iov = &part,
				 .msg_iovlen = 1,
				 .msg_control = room.bytes,
				 .msg_controllen = sizeof room.bytes};
	ssize_t n;

	do
		n = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n == 0)
		return 0;
	if (n != sizeof *r)
		return err_set(err, ERR_INTERNAL, "the launch ended without a word");
	const struct cmsghdr *head = CMSG_FIRSTHDR(&message);
	*out_fd = -1;
	if (head && head->cmsg_type == SCM_RIGHTS && head->cmsg_len == CMSG_LEN(sizeof *out_fd))
		memcpy(out_fd, CMSG_DATA(head), sizeof *out_fd);
	return 1;
}

int
starting_read_reports(int socket, pid_t *pid, int *proc, struct err *err)
{
	const uint64_t deadline_ns = time_now_ns() + START_MAX_NS;

	for (;;) {
		struct sandbox_report r;
		const int ready = wait_for(socket, POLLIN, deadline_ns);
		int fd = -1;
		if (ready < 0)
			return err_sys(err, errno, "wait for the sandbox to start");
		if (ready == 0)
			return err_set(err, ERR_TIMEOUT, "the sandbox did not start within 10 s");
		const int got = receive_report(socket, &r, &fd, err);
		if (got < 0)
			return -1;
		if (got == 0)
			return *pid > 0 ? 0
					: err_set(err, ERR_INTERNAL,
						  "the launch ended without a word");
		if (fd >= 0) {
			fd_close(proc);
			*proc = fd;
		} else if (r.pid > 0) {
			*pid = r.pid;
		} else {
			r.step[sizeof r.step - 1] = r.at[sizeof r.at - 1] = '\0';
			return err_sys(err, r.error, "start the sandbox: %s%s%s%s", r.step,
				       r.at[0] ? " (" : "", r.at, r.at[0] ? ")" : "");
		}
	}
}

/* Kills a child by pidfd and takes its status; bounded, since a process can hang in the kernel. */
static void
end_child(int pidfd)
{
	siginfo_t ignored;

	pidfd_send_signal(pidfd, SIGKILL, NULL, 0);
	if (wait_for(pidfd, POLLIN, time_now_ns() + END_MAX_NS) > 0)
		waitid(P_PIDFD, (id_t)pidfd, &ignored, WEXITED);
}

void
starting_end_pid(pid_t pid)
{
	auto_close int pidfd =
	    pid > 0 ? pidfd_open(pid, 0) : -1; /* our child: not used again yet */
	if (pidfd >= 0)
		end_child(pidfd);
}
