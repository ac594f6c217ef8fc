#include "spawn.h"
#include "base/fd.h"
#include "base/time.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SPAWN_FDS_MAX = 8, SPAWN_ARGS_MAX = 8, SPAWN_TOOL_ARGS_MAX = 24 };

extern char **environ;

int
spawn_find_libexec(char *out, size_t out_bytes, struct err *err)
{
	char exe[3072], probe[4096];
	const ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);

	if (n < 0)
		return err_sys(err, errno, "find berthd's own place");
	exe[n] = '\0';
	char *slash = strrchr(exe, '/');
	if (slash)
		*slash = '\0';
	static const char *const places[] = {"", "/../libexec/berth"};
	for (size_t i = 0; i < 2; i++) {
		snprintf(probe, sizeof probe, "%s%s/berth-conn", exe, places[i]);
		if (access(probe, X_OK) == 0) {
			if ((size_t)snprintf(out, out_bytes, "%s%s", exe, places[i]) >= out_bytes)
				return err_set(err, ERR_CONFIG, "berthd's path is too long");
			return 0;
		}
	}
	err_set(err, ERR_CONFIG, "no berth-conn in %s or %s/../libexec/berth", exe, exe);
	return err_hint(err, "install all of berth's executables together");
}

static int
open_pidfd(pid_t pid, struct err *err)
{
	const int fd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (fd < 0)
		return err_sys(err, errno, "watch a process");
	return fd;
}

/* The fds go to high numbers first, so that no dup2 of the list lands on one still needed. */
static int
spawn_with(const char *path, char *const argv[], const int *fds, size_t n_fds, bool keep_stderr,
	   pid_t *out_pid, struct err *err)
{
	posix_spawn_file_actions_t acts;
	posix_spawnattr_t attr;
	sigset_t none, defaults;
	int high[SPAWN_FDS_MAX];
	size_t n_high = 0;
	int rc = 0;

	posix_spawn_file_actions_init(&acts);
	posix_spawnattr_init(&attr);
	for (; n_high < n_fds && rc == 0; n_high++) {
		high[n_high] = fcntl(fds[n_high], F_DUPFD_CLOEXEC, 64);
		if (high[n_high] < 0) {
			rc = errno;
			break;
		}
		rc = posix_spawn_file_actions_adddup2(&acts, high[n_high], 3 + (int)n_high);
	}
	sigemptyset(&none);
	sigfillset(&defaults);
	if (rc == 0)
		rc = posix_spawn_file_actions_addopen(&acts, 0, "/dev/null", O_RDONLY, 0);
	if (rc == 0)
		rc = posix_spawn_file_actions_addopen(&acts, 1, "/dev/null", O_WRONLY, 0);
	if (rc == 0 && !keep_stderr)
		rc = posix_spawn_file_actions_adddup2(&acts, 1, 2);
	if (rc == 0)
		rc = posix_spawnattr_setsigmask(&attr, &none);
	if (rc == 0)
		rc = posix_spawnattr_setsigdefault(&attr, &defaults);
	if (rc == 0)
		rc = posix_spawnattr_setflags(
		    &attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSID);
	if (rc == 0)
		rc = posix_spawn(out_pid, path, &acts, &attr, argv, environ);
	for (size_t i = 0; i < n_high; i++)
		fd_close(&high[i]);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&acts);
	if (rc != 0)
		return err_sys(err, rc, "start %s", path);
	return 0;
}

int
spawn_process(const char *libexec, const char *name, const char *const *argv, const int *fds,
	      size_t n_fds, pid_t *out_pid, int *out_pidfd, struct err *err)
{
	char path[4096];
	char *args[SPAWN_ARGS_MAX + 2] = {(char *)(uintptr_t)name};
	pid_t pid;

	if (n_fds > SPAWN_FDS_MAX)
		return err_set(err, ERR_INTERNAL, "start %s: too many descriptors", name);
	for (size_t i = 0; argv && argv[i] && i < SPAWN_ARGS_MAX; i++)
		args[i + 1] = (char *)(uintptr_t)argv[i]; /* posix_spawn only reads them */
	snprintf(path, sizeof path, "%s/%s", libexec, name);
	if (spawn_with(path, args, fds, n_fds, true, &pid, err) < 0)
		return -1;
	const int pidfd = open_pidfd(pid, err);
	if (pidfd < 0) {
		kill(pid, SIGKILL);
		return -1;
	}
	*out_pid = pid;
	*out_pidfd = pidfd;
	return 0;
}

static int
start_tool(const char *const *argv, pid_t *out_pid, int *out_pidfd, struct err *err)
{
	char *args[SPAWN_TOOL_ARGS_MAX + 1] = {0};

	for (size_t i = 0; argv[i]; i++) {
		if (i == SPAWN_TOOL_ARGS_MAX)
			return err_set(err, ERR_INTERNAL, "start %s: too many arguments", argv[0]);
		args[i] = (char *)(uintptr_t)argv[i];
	}
	if (spawn_with(argv[0], args, NULL, 0, false, out_pid, err) < 0)
		return -1;
	*out_pidfd = open_pidfd(*out_pid, err);
	return *out_pidfd < 0 ? -1 : 0;
}

int
spawn_tool(const char *const *argv, int *out_pidfd, struct err *err)
{
	pid_t pid;
	return start_tool(argv, &pid, out_pidfd, err);
}

int
spawn_run(const char *const *argv, struct err *err)
{
	auto_close int pidfd = -1;
	pid_t pid;
	int status;

	if (start_tool(argv, &pid, &pidfd, err) < 0)
		return -1;
	struct pollfd p = {.fd = pidfd, .events = POLLIN};
	if (poll(&p, 1, 30000) <= 0)
		kill(pid, SIGKILL);
	if (waitpid(pid, &status, 0) < 0)
		return err_sys(err, errno, "wait for %s", argv[0]);
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		return err_set(err, ERR_INTERNAL, "%s failed with status %d", argv[0],
			       WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
	return 0;
}
