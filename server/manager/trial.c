#include "trial.h"
#include "base/fd.h"
#include "base/num.h"
#include "base/path.h"
#include "base/time.h"
#include "manager/prepare.h"
#include "manager/spawn.h"
#include "wire/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define STEP_MAX_NS  (10 * NS_PER_S)
#define WHOLE_MAX_MS 60000
#define TRIAL_ENV    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\0"

struct room { /* all that a trial has, in its own process */
	const struct config *config;
	const char *libexec;
	char path[CONFIG_TEXT_BYTES + 32];
	struct node node;
	int session, image, spill; /* owned */
	char id[ID_BYTES];
	int fds[KEEPER_FDS]; /* owned */
	struct wire keeper, conn;
	int pidfd; /* owned; the keeper's */
	uint32_t seq;
};

/* ---- a place ---- */

/* Beside what the server will use, since it is that filesystem which must do. */
static int
make_place(struct room *r, struct err *err)
{
	char above[CONFIG_TEXT_BYTES];
	const char *dir = above;

	snprintf(above, sizeof above, "%s", r->config->state);
	while (access(dir, W_OK) < 0) {
		if (strcmp(dir, "/") == 0 || strcmp(dir, ".") == 0) {
			dir = "/tmp";
			break;
		}
		dir = dirname(above);
	}
	snprintf(r->path, sizeof r->path, "%s/.trial-XXXXXX", strcmp(dir, "/") == 0 ? "" : dir);
	if (!mkdtemp(r->path))
		return err_sys(err, errno, "make a directory in %s", dir);
	return 0;
}

static int
open_node(struct room *r, struct isolation *isolation, struct err *err)
{
	auto_close int top = open(r->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (top < 0)
		return err_sys(err, errno, "open %s", r->path);
	if (node_open(&r->node, top, -1, r->path, r->libexec, (unsigned)r->config->uid_base,
		      isolation, err) < 0)
		return err_add(err, "set up the node");
	const int state = r->node.state;
	r->session = path_open_dir(state, "session", 0700, err);
	r->image = r->session < 0 ? -1 : path_open_dir(state, "image", 0755, err);
	r->spill = r->image < 0 ? -1 : path_open_dir(state, "spill", 0750, err);
	if (r->spill < 0 || fchmod(r->image, 0755) < 0 || image_skeleton(r->image, err) < 0)
		return err_add(err, "set up the trial");
	return node_give(&r->node, r->spill, 0, 0750, err);
}

static void
remove_place(struct room *r)
{
	struct err ignored;
	char *slash = strrchr(r->path, '/');

	if (!slash)
		return;
	umount2(r->path, MNT_DETACH); /* it was mounted on itself, in this process's own namespace */
	auto_close int above = -1;
	if (slash == r->path) {
		above = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	} else {
		*slash = '\0';
		above = open(r->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		*slash = '/';
	}
	if (above >= 0)
		(void)!path_remove_tree(above, slash + 1, &ignored);
}

/* ---- the session ---- */

static int
open_slot(struct room *r, enum keeper_fd slot, int fd, struct err *err)
{
	r->fds[slot] = fd;
	return fd < 0 ? err_sys(err, errno, "open what the keeper needs") : 0;
}

static int
prepare(struct room *r, struct err *err)
{
	const struct workspace w = {.id = r->id,
				    .session_dir = r->session,
				    .upper = 1,
				    .fresh_work = true,
				    .image = r->image,
				    .image_host = true};

	if (prepare_workspace(&r->node, &w, r->spill, r->fds, err) < 0)
		return -1;
	auto_close int calls = path_open_dir(r->session, "calls", 0700, err);
	if (calls < 0 || node_give(&r->node, calls, 0, 0700, err) < 0)
		return -1;
	const int lock = openat(r->session, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (open_slot(r, KEEPER_LOCK, lock, err) < 0 ||
	    open_slot(r, KEEPER_CALLS, fd_steal(&calls), err) < 0 ||
	    open_slot(r, KEEPER_SPILL, fcntl(r->spill, F_DUPFD_CLOEXEC, 3), err) < 0)
		return -1;
	return open_slot(r, KEEPER_LISTEN, open("/dev/null", O_RDWR | O_CLOEXEC), err);
}

/* The next message of this number; others that come between are of no use here. */
static int
await(struct wire *w, enum msg_id id, struct err *err)
{
	const uint64_t until_ns = time_now_ns() + STEP_MAX_NS;

	for (;;) {
		if (wire_recv_wait(w, until_ns, err) < 0)
			return -1;
		const struct message *m = &w->message;
		if (m->id == id)
			return 0;
		if (m->id == MSG_keeper_failed)
			return err_set(err, (enum err_code)m->keeper_failed.code, "%.*s",
				       (int)m->keeper_failed.why.len, m->keeper_failed.why.at);
		if (m->id == MSG_call_refused)
			return err_set(err, (enum err_code)m->call_refused.code, "%.*s",
				       (int)m->call_refused.why.len, m->call_refused.why.at);
	}
}

static int
start_keeper(struct room *r, struct err *err)
{
	static const char env[] = TRIAL_ENV;
	const bool whole = !node_stacks(&r->node);
	pid_t pid;
	int pair[2];

	if (wire_pair(pair, err) < 0)
		return -1;
	auto_close int theirs = pair[1];
	if (wire_open(&r->keeper, pair[0], ROLE_MANAGER, ROLE_KEEPER, PHASE_OPEN, err) < 0 ||
	    spawn_process(r->libexec, "berth-keeper", NULL, &theirs, 1, &pid, &r->pidfd, err) < 0)
		return -1;
	fd_close(&theirs);
	const struct msg_keeper_start start = {
	    .id = str_of(r->id),
	    .name = STR_LIT("trial"),
	    .keeper_uid = node_keeper_uid(&r->node, 0),
	    .session_uid_base = node_session_uid(&r->node, 0),
	    .hostname = STR_LIT("trial"),
	    .cwd = STR_LIT("/"),
	    .home = STR_LIT("/"),
	    .shell = STR_LIT("/bin/sh"),
	    .env = {env, sizeof env - 1},
	    .next_record = 1,
	    .journal_bytes_max = 1 << 20,
	    .kill_grace_ns = NS_PER_S,
	    .calls_max = 4,
	    .engine = whole ? ENGINE_PROCESS : ENGINE_LAUNCH,
	    .ids = r->node.isolation.ids,
	};
	if (wire_send_fds(&r->keeper, MSG_keeper_start, &start, r->fds, KEEPER_FDS, err) < 0)
		return -1;
	return await(&r->keeper, MSG_keeper_started, err);
}

/* As a conn would, over a grant. */
static int
run_call(struct room *r, struct err *err)
{
	int pair[2];

	if (wire_pair(pair, err) < 0)
		return -1;
	auto_close int theirs = pair[1];
	if (wire_open(&r->conn, pair[0], ROLE_CONN, ROLE_KEEPER, PHASE_OPEN, err) < 0)
		return -1;
	const struct msg_grant grant = {.grant = 1,
					.principal = STR_LIT("trial"),
					.role = STR_LIT("operator"),
					.user = STR_LIT("trial"),
					.peer = STR_LIT("trial")};
	if (wire_send_fds(&r->keeper, MSG_grant, &grant, &theirs, 1, err) < 0 ||
	    wire_send(&r->conn, call_start, err, .command = STR_LIT("exit 23")) < 0 ||
	    await(&r->conn, MSG_call_started, err) < 0 || await(&r->conn, MSG_call_ended, err) < 0)
		return -1;
	const struct msg_call_ended *m = &r->conn.message.call_ended;
	if (m->exit_status != 23)
		return err_set(err, ERR_INTERNAL, "it ended with %u, not with 23", m->exit_status);
	return 0;
}

static int
command_done(struct room *r, struct err *err)
{
	if (await(&r->keeper, MSG_done, err) < 0)
		return -1;
	const struct msg_done *d = &r->keeper.message.done;
	return d->code ? err_set(err, (enum err_code)d->code, "%.*s", (int)d->why.len, d->why.at) : 0;
}

static int
end_session(struct room *r, struct err *err)
{
	struct pollfd p = {.fd = r->pidfd, .events = POLLIN};

	if (wire_send(&r->keeper, kill, err, .seq = ++r->seq, .ended_by = STR_LIT("kill")) < 0 ||
	    command_done(r, err) < 0)
		return -1;
	wire_close(&r->keeper);
	if (poll(&p, 1, (int)(STEP_MAX_NS / NS_PER_MS)) <= 0)
		return err_set(err, ERR_TIMEOUT, "the keeper does not end");
	return 0;
}

static int
run_session(struct room *r, struct trial *out, struct err *err)
{
	const uint64_t began_ns = time_now_ns();

	if (prepare(r, err) < 0)
		return err_add(err, "prepare a workspace");
	if (start_keeper(r, err) < 0)
		return err_add(err, "start a session");
	const uint64_t started_ns = time_now_ns();
	out->start_ns = started_ns - began_ns;
	if (run_call(r, err) < 0)
		return err_add(err, "run a command");
	out->call_ns = time_now_ns() - started_ns;
	if (wire_send(&r->keeper, freeze, err, .seq = ++r->seq) < 0 || command_done(r, err) < 0)
		return err_add(err, "freeze it");
	if (wire_send(&r->keeper, thaw, err, .seq = ++r->seq) < 0 || command_done(r, err) < 0)
		return err_add(err, "thaw it");
	return end_session(r, err) < 0 ? err_add(err, "kill it") : 0;
}

/* ---- its process ---- */

static void
describe(const struct room *r, struct trial *out)
{
	static const enum limit of[] = {LIMIT_MEMORY, LIMIT_PIDS, LIMIT_CPU};

	out->isolation = r->node.isolation;
	snprintf(out->freezes, sizeof out->freezes, "%s",
		 r->node.cgroup >= 0 ? "cgroup.freeze" : "SIGSTOP to each process");
	snprintf(out->cgroup_why, sizeof out->cgroup_why, "%s", r->node.cgroup_why);
	for (size_t i = 0; i < sizeof of / sizeof *of; i++) {
		const char *by = governor_means(r->node.governor, of[i]);
		snprintf(out->limits[i], sizeof out->limits[i], "%s", by ? by : "");
	}
}

static int
try(struct room *r, enum rung rung, struct trial *out, struct err *err)
{
	struct isolation isolation;
	struct err ignored;

	if (rung_choose(rung_name(rung), NULL, NULL, &isolation, err) < 0)
		return -1;
	isolation.lacks[0] = '\0';
	if (rung_enter(&isolation, err) < 0 || make_place(r, err) < 0)
		return -1;
	id_new("s_", r->id);
	int result = open_node(r, &isolation, err);
	if (result == 0)
		result = run_session(r, out, err);
	describe(r, out);
	if (r->pidfd >= 0) /* where it failed */
		syscall(SYS_pidfd_send_signal, r->pidfd, SIGKILL, NULL, 0);
	if (r->node.open) {
		if (prepare_clear(&r->node, r->id, &ignored) < 0 && result == 0)
			result = err_add(&ignored, "clear up");
		node_close(&r->node);
	}
	remove_place(r);
	return result;
}

struct outcome {
	struct err err; /* code NONE: it went well */
	struct trial trial;
};

static _Noreturn void
be_trial(const struct config *c, const char *libexec, enum rung rung, int tell)
{
	struct outcome o = {.err = {.code = ERR_NONE}};
	struct room r = {.config = c,
			 .libexec = libexec,
			 .session = -1,
			 .image = -1,
			 .spill = -1,
			 .pidfd = -1,
			 .keeper = {.fd = -1},
			 .conn = {.fd = -1}};
	struct err ignored;

	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	for (int i = 0; i < KEEPER_FDS; i++)
		r.fds[i] = -1;
	if (try(&r, rung, &o.trial, &o.err) == 0)
		o.err = (struct err){.code = ERR_NONE};
	_exit(fd_write_all(tell, &o, sizeof o, &ignored) < 0);
}

int
trial_run(const struct config *c, const char *libexec, enum rung rung, struct trial *out,
	  struct err *err)
{
	struct outcome o;
	int ends[2];

	if (pipe2(ends, O_CLOEXEC) < 0)
		return err_sys(err, errno, "make a pipe for a trial");
	auto_close int from = ends[0], to = ends[1];
	const pid_t pid = fork();
	if (pid == 0)
		be_trial(c, libexec, rung, to);
	if (pid < 0)
		return err_sys(err, errno, "start a trial");
	fd_close(&to);
	struct pollfd p = {.fd = from, .events = POLLIN};
	size_t got = 0;
	while (got < sizeof o && poll(&p, 1, WHOLE_MAX_MS) > 0) {
		const ssize_t n = read(from, (char *)&o + got, sizeof o - got);
		if (n <= 0)
			break;
		got += (size_t)n;
	}
	const bool told = got == sizeof o;
	kill(pid, SIGKILL); /* it has told all, or is too late; ours to wait for */
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	if (!told)
		return err_set(err, ERR_INTERNAL, "the trial died without a word");
	if (o.err.code != ERR_NONE) {
		*err = o.err;
		return -1;
	}
	*out = o.trial;
	return 0;
}

/* ---- berthd --check ---- */

static void
print_trial(const struct trial *t)
{
	static const char *const names[] = {"memory", "pids", "cpu"};
	const struct isolation *i = &t->isolation;

	printf("%-10s yes: a session started in %.1f ms, ran a command in %.1f ms, froze, thawed, died\n",
	       rung_name(i->rung), (double)t->start_ns / 1e6, (double)t->call_ns / 1e6);
	printf("%-10s   %s\n", "", rung_words(i->rung));
	if (i->rung == RUNG_ROOTLESS || i->lacks[0])
		printf("%-10s   ids inside: %u%s%s\n", "", i->ids, i->lacks[0] ? "; " : "", i->lacks);
	printf("%-10s   freeze by %s%s%s\n", "", t->freezes, t->cgroup_why[0] ? ": " : "",
	       t->cgroup_why);
	printf("%-10s   limits:", "");
	for (int k = 0; k < 3; k++)
		printf("%s %s by %s", k ? "," : "", names[k],
		       t->limits[k][0] ? t->limits[k]
		       : k == 2	       ? "nothing"
		       : k == 0	       ? "RLIMIT_DATA of each process"
				       : "RLIMIT_NPROC");
	printf("\n");
}

/* One rung of the ladder: whether it is the one. */
static bool
check_rung(const struct config *c, const char *libexec, enum rung wanted, enum rung r, bool have)
{
	const char *name = rung_name(r);
	struct trial t;
	struct err why;

	if (wanted != RUNGS && wanted != r) {
		printf("%-10s not tried: isolation = %s\n", name, rung_name(wanted));
		return false;
	}
	if (have) {
		printf("%-10s not tried: a better one can be had\n", name);
		return false;
	}
	if (rung_look(r, &why) == 0 && trial_run(c, libexec, r, &t, &why) == 0) {
		print_trial(&t);
		return true;
	}
	printf("%-10s no: %s%s%s%s\n", name, why.why, why.hint[0] ? " (" : "", why.hint,
	       why.hint[0] ? ")" : "");
	return false;
}

int
trial_check(const struct config *c, const char *libexec, struct err *err)
{
	enum rung wanted, found = RUNGS;

	if (rung_parse(c->isolation, &wanted, err) < 0)
		return -1;
	printf("berthd %s, state %s\n", BERTH_VERSION, c->state);
	for (enum rung r = 0; r < RUNGS; r++) {
		if (check_rung(c, libexec, wanted, r, found != RUNGS))
			found = r;
		fflush(stdout);
	}
	if (found == RUNGS)
		return err_set(err, ERR_UNAVAILABLE, "no isolation can be had here");
	if (rung_warning(found))
		printf("%-10s %s\n", "note", rung_warning(found));
	printf("%-10s %s\n", "chosen", rung_name(found));
	return 0;
}
