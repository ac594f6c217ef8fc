#include "reap.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct {
	uint32_t call;
	bool used;
	pid_t pid; /* 0: reserved, not forked yet */
} calls[REAP_CALLS_MAX];
static int calls_top;    /* places from here on were never used */
static int *exec_errnos; /* shared with children until they exec */

int
reap_init(struct err *err)
{
	exec_errnos = mmap(NULL, REAP_CALLS_MAX * sizeof *exec_errnos, PROT_READ | PROT_WRITE,
			   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (exec_errnos == MAP_FAILED)
		return err_sys(err, errno, "get shared memory");
	return 0;
}

void
reap_leave(void)
{
	munmap(exec_errnos, REAP_CALLS_MAX * sizeof *exec_errnos);
}

int
reap_reserve(uint32_t call)
{
	int place = -1;

	for (int i = 0; i < calls_top; i++) {
		if (calls[i].used && calls[i].call == call)
			return -1;
		if (!calls[i].used && place < 0)
			place = i;
	}
	if (place < 0) {
		if (calls_top == REAP_CALLS_MAX)
			return -1;
		place = calls_top++;
	}
	calls[place].used = true;
	calls[place].call = call;
	calls[place].pid = 0;
	exec_errnos[place] = 0;
	return place;
}

void
reap_set_pid(int place, pid_t pid)
{
	calls[place].pid = pid;
}

void
reap_release(int place)
{
	calls[place].used = false;
	while (calls_top > 0 && !calls[calls_top - 1].used)
		calls_top--;
}

int *
reap_exec_errno(int place)
{
	return &exec_errnos[place];
}

static uint64_t
ns_of(struct timeval t)
{
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_usec * 1000u;
}

int
reap_one(struct reaped *out)
{
	struct rusage usage;
	int status;

	const pid_t pid = wait4(-1, &status, WNOHANG, &usage);
	if (pid <= 0)
		return -1;
	out->pid = pid;
	for (int i = 0; i < calls_top; i++) {
		if (!calls[i].used || calls[i].pid != pid)
			continue;
		*out = (struct reaped){
		    .pid = pid,
		    .call = calls[i].call,
		    .wait_status = (uint32_t)status,
		    .exec_errno = (uint32_t)exec_errnos[i],
		    .cpu_ns = ns_of(usage.ru_utime) + ns_of(usage.ru_stime),
		    .peak_bytes = (uint64_t)usage.ru_maxrss * 1024,
		};
		reap_release(i);
		return 1;
	}
	return 0;
}

static void
signal_group(pid_t pid, int signal)
{
	/* A session leader never leaves its group; before its setsid(2) there is only the process.
	 */
	if (kill(-pid, signal) < 0 && errno == ESRCH)
		kill(pid, signal);
}

void
reap_signal(uint32_t call, int signal)
{
	for (int i = 0; i < calls_top; i++)
		if (calls[i].used && calls[i].call == call && calls[i].pid > 0)
			signal_group(calls[i].pid, signal);
}

void
reap_signal_listed(int list, int signal)
{
	char text[4096];
	long pid = 0;

	if (signal < 1 || signal > 64)
		return;
	for (ssize_t n; (n = read(list, text, sizeof text)) > 0;)
		for (ssize_t i = 0; i < n; i++) {
			if (text[i] >= '0' && text[i] <= '9' && pid < INT_MAX / 10) {
				pid = pid * 10 + (text[i] - '0');
				continue;
			}
			if (pid > 1) /* 0: one that this namespace does not show */
				kill((pid_t)pid, signal);
			pid = 0;
		}
}

void
reap_signal_all(int signal)
{
	if (getpid() == 1) {
		kill(-1, signal);
		return;
	}
	for (int i = 0; i < calls_top; i++)
		if (calls[i].used && calls[i].pid > 0)
			signal_group(calls[i].pid, signal);
}

/* SIGKILL to each child that the kernel lists: orphans have become ours. */
static void
kill_children(void)
{
	char text[4096];
	long pid = 0;

	const int list = open("/proc/thread-self/children", O_RDONLY | O_CLOEXEC);
	if (list < 0)
		return;
	for (ssize_t n; (n = read(list, text, sizeof text)) > 0;)
		for (ssize_t i = 0; i < n; i++) {
			if (text[i] >= '0' && text[i] <= '9' && pid < INT_MAX / 10) {
				pid = pid * 10 + (text[i] - '0');
				continue;
			}
			if (pid > 1)
				kill((pid_t)pid, SIGKILL);
			pid = 0;
		}
	close(list);
}

void
reap_end_all(void)
{
	const struct timespec second = {.tv_sec = 1};
	sigset_t child;

	reap_signal_all(SIGKILL);
	if (getpid() == 1)
		return;
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD); /* blocked since the start: init.c */
	for (int silent = 0; silent < 10;) {
		kill_children();
		pid_t pid;
		while ((pid = waitpid(-1, NULL, WNOHANG)) > 0)
			silent = 0;
		if (pid < 0)
			return; /* none is left */
		if (sigtimedwait(&child, NULL, &second) < 0 && errno == EAGAIN)
			silent++;
	}
}
