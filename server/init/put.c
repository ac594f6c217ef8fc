/* Invariants
 *  1. init writes no file: a child does, which holds the snapshot's tree, one pipe, and of init's
 *     rights those over files alone;
 *  2. nobody waits for it: it is ended by what it says next when its pipe has no reader any more, a
 *     fifth of a second later at most, or by any signal that ends a process of the session;
 *  3. one at a time;
 *  4. what it says is as good as any word of the session: the keeper looks at it. */
#include "put.h"
#include "put_tree.h"
#include "reap.h"

#include "base/fd.h"
#include "base/time.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PIPE = 0, TREE = 1, LINE_BYTES = 640, WHY_BYTES = 512 };
#define TELL_NS (200 * NS_PER_MS)

static pid_t child; /* 0: none */

/* ---- in the child ---- */

/* SIGPIPE ends us: nobody reads any more. A pipe that is full is waited for. */
static void
say(const char *line, int n)
{
	(void)!write(PIPE, line, (size_t)n);
}

static void
say_counts(const char *word, const struct put_counts *n)
{
	char line[LINE_BYTES];

	say(line, snprintf(line, sizeof line, "%s %llu %llu %llu %llu %llu\n", word,
			   (unsigned long long)n->written, (unsigned long long)n->bytes,
			   (unsigned long long)n->removed, (unsigned long long)n->same,
			   (unsigned long long)n->skipped));
}

static void
say_failure(const struct err *err)
{
	char line[LINE_BYTES], why[WHY_BYTES];

	snprintf(why, sizeof why, "%s", err->why);
	for (char *c = why; *c; c++)
		if ((unsigned char)*c < ' ' || *c == 0x7f)
			*c = '?';
	say(line, snprintf(line, sizeof line, "failed %d %s\n", (int)err->code, why));
}

static void
on_tick(void *ctx, const struct put_counts *n)
{
	uint64_t *told_ns = ctx;
	const uint64_t now_ns = time_now_ns();

	if (now_ns - *told_ns < TELL_NS)
		return;
	*told_ns = now_ns;
	say_counts("progress", n);
}

/* Root's over files, as far as init has them: nothing else is needed. */
static int
keep_rights(void)
{
	static const unsigned long long files = 1ull << CAP_CHOWN | 1ull << CAP_DAC_OVERRIDE |
						1ull << CAP_FOWNER | 1ull << CAP_FSETID |
						1ull << CAP_SETFCAP | 1ull << CAP_MKNOD;
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct has[2];

	if (syscall(SYS_capget, &head, has) < 0)
		return -1;
	for (int i = 0; i < 2; i++) {
		has[i].permitted &= (uint32_t)(files >> (32 * i));
		has[i].effective = has[i].permitted;
		has[i].inheritable = 0;
	}
	return syscall(SYS_capset, &head, has) < 0 ? -1 : 0;
}

/* The pipe and the tree alone, at 0 and 1. */
static int
keep_files(int pipe, int tree)
{
	if (dup2(pipe, PIPE) < 0 || dup2(tree, TREE) < 0) /* both lie above 2: see fill_low_fds */
		return -1;
	if (syscall(SYS_close_range, 2u, ~0u, 0u) < 0)
		for (int fd = 2; fd < 1024; fd++)
			close(fd);
	return 0;
}

static _Noreturn void
be_child(const char *path, int pipe, int tree)
{
	uint64_t told_ns = time_now_ns();
	struct rlimit files;
	sigset_t none;
	struct err err;

	setsid(); /* no signal to a group of init's reaches it, or the other way round */
	reap_leave();
	if (keep_files(pipe, tree) < 0 || keep_rights() < 0)
		_exit(1);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	umask(0);
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	const int root = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct put p = {.source = TREE,
			.root = root,
			.tick = on_tick,
			.ctx = &told_ns,
			.temps = (unsigned)told_ns};
	if (root < 0)
		err_sys(&err, errno, "open the workspace");
	if (root < 0 || put_tree(&p, path, &err) < 0)
		say_failure(&err);
	else
		say_counts("done", &p.n);
	_exit(0);
}

/* ---- in init ---- */

void
put_begin(struct wire *w)
{
	static const char busy[] = "failed 0 another one is under way\n";
	char path[PUT_PATH_BYTES];
	struct err ignored;

	auto_close int tree = fd_steal(&w->message.fds[0]);
	auto_close int pipe = fd_steal(&w->message.fds[1]);
	if (str_copy(w->message.init_put.path, path, sizeof path, &ignored) < 0)
		return; /* the end of the pipe tells */
	const pid_t pid = child ? -1 : fork();
	if (pid == 0)
		be_child(path, pipe, tree);
	if (pid > 0)
		child = pid;
	else if (fcntl(pipe, F_SETFL, O_NONBLOCK) == 0)
		(void)!write(pipe, busy, sizeof busy - 1);
}

void
put_reaped(pid_t pid)
{
	if (pid == child)
		child = 0;
}
