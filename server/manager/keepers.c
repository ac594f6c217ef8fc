/* The manager's side of a keeper: starting it, finding it again after a restart, and its messages,
 * each of which becomes an event of its session. */
#include "base/fd.h"
#include "base/log.h"
#include "base/path.h"
#include "base/time.h"
#include "manager/do.h"
#include "manager/forwards.h"
#include "manager/imported.h"
#include "manager/login.h"
#include "manager/plain.h"
#include "manager/session.h"
#include "manager/spares.h"
#include "manager/spawn.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

/* ---- its messages ---- */

static void
adopt(struct session *s, const struct msg_grant_report *r)
{
	struct err err;

	if (conns_adopt(s, r, &err) < 0)
		log_err(&err, "session %s: a connection of it was not taken back", s->row.name);
}

/* Its end is the end of all in its pid namespace. A number that a keeper told: waited for, never
 * signalled. */
static void
note_pid1(struct session *s, uint32_t pid)
{
	fd_close(&s->keeper.pid1);
	if (s->m->node.cgroup < 0 && pid > 1 && pid <= INT32_MAX)
		s->keeper.pid1 = (int)syscall(SYS_pidfd_open, (pid_t)pid, 0);
}

static void
tell_retention(struct session *s)
{
	const struct manager *m = s->m;
	struct err err;

	if (wire_send(&s->keeper.wire, retention, &err, .journal_keep_ns = m->config.journal_keep,
		      .journals_bytes_max = m->config.journal_session_max) < 0)
		log_err(&err, "session %s", s->row.name); /* its end is seen where it is read from */
}

static void
dispatch(struct session *s)
{
	struct message *msg = &s->keeper.wire.message;
	struct err err;

	switch ((int)msg->id) {
	case MSG_keeper_state:
		note_pid1(s, msg->keeper_state.pid1);
		tell_retention(s);
		session_auto_begin(s);
		return;
	case MSG_keeper_ready:
		note_pid1(s, msg->keeper_ready.pid1);
		s->keeper.unnamed = true;
		spares_ready(s);
		return;
	case MSG_keeper_started:
		note_pid1(s, msg->keeper_started.pid1);
		tell_retention(s);
		session_auto_begin(s);
		session_run_started(s);
		return;
	case MSG_keeper_failed:
		err_set(&err, err_from_number(msg->keeper_failed.code), "%.*s",
			(int)msg->keeper_failed.why.len, msg->keeper_failed.why.at);
		session_run_failed(s, &err);
		return;
	case MSG_done:
		if (!do_keeper_answer(s, msg->done.seq, NULL, &msg->done))
			session_done(s, &msg->done);
		return;
	case MSG_calls_over:
		session_auto_calls_over(s, &msg->calls_over);
		return;
	case MSG_calls_wait:
		session_auto_calls_wait(s, &msg->calls_wait);
		return;
	case MSG_tree_put_report:
		session_put_report(s, &msg->tree_put_report);
		return;
	case MSG_journal_watched:
		do_keeper_answer(s, msg->journal_watched.seq, msg, NULL);
		return;
	case MSG_call_input_open:
		do_keeper_answer(s, msg->call_input_open.seq, msg, NULL);
		return;
	case MSG_call_record:
		records_add(s, &msg->call_record);
		return;
	case MSG_grant_terms_report:
		free(s->keeper.terms.key);
		s->keeper.terms.key = xstrndup(msg->grant_terms_report.key);
		s->keeper.terms.grant = msg->grant_terms_report.grant;
		s->keeper.terms.roles = msg->grant_terms_report.roles;
		s->keeper.terms.forwards = 0;
		allowances_take(&s->keeper.terms.allow, ALLOW_ALL, STR_LIT(""), STR_LIT(""));
		return;
	case MSG_grant_allowances_report: /* a keeper of an earlier version sends none */
		s->keeper.terms.forwards = msg->grant_allowances_report.forwards;
		allowances_take(&s->keeper.terms.allow, msg->grant_allowances_report.flags,
				msg->grant_allowances_report.permit_open,
				msg->grant_allowances_report.permit_listen);
		return;
	case MSG_grant_report:
		adopt(s, &msg->grant_report);
		return;
	default:
		return; /* grant_closed asks for nothing */
	}
}

void
keeper_unlink(struct session *s)
{
	if (!s->keeper.linked)
		return;
	watch_remove(&s->keeper.wire.watch);
	s->keeper.linked = false;
	session_auto_stop(s);
	wire_close(&s->keeper.wire);
	do_keeper_gone(s);
	keeper_cut(s);
}

void
keeper_read(struct session *s)
{
	struct err err;
	int got = 0;

	while (s->keeper.linked && (got = wire_recv(&s->keeper.wire, &err)) == 1)
		dispatch(s);
	if (got >= 0 || !s->keeper.linked)
		return;
	if (err.code != ERR_UNAVAILABLE)
		log_err(&err, "session %s: its keeper is cut", s->row.name);
	keeper_unlink(s);
}

static void
on_readable(void *ctx)
{
	keeper_read(ctx);
}

static void
on_ended(void *ctx, uint32_t events)
{
	struct session *s = ctx;

	(void)events;
	keeper_read(s); /* what it said last */
	keeper_close(s);
	records_flush(s->m);
	records_replay(s);
	do_keeper_gone(s);
	session_pause_keeper_gone(s);
}

void
keeper_cut(struct session *s)
{
	if (s->keeper.pidfd >= 0)
		syscall(SYS_pidfd_send_signal, s->keeper.pidfd, SIGKILL, NULL, 0);
}

void
keeper_close(struct session *s)
{
	watch_remove(&s->keeper.ended);
	if (s->keeper.linked)
		wire_close(&s->keeper.wire);
	s->keeper.linked = false;
	session_auto_stop(s);
	fd_close(&s->keeper.pidfd);
	s->keeper.pid = 0;
	free(s->keeper.terms.key);
	s->keeper.terms.key = NULL;
	allowances_done(&s->keeper.terms.allow);
}

#define DEATH_MAX_MS    10000
#define PID1_END_MAX_MS 10000

int
keeper_end(struct session *s, struct err *err)
{
	struct pollfd p = {.fd = s->keeper.pidfd, .events = POLLIN};

	keeper_cut(s);
	const bool gone = p.fd < 0 || poll(&p, 1, DEATH_MAX_MS) > 0;
	keeper_close(s);
	return gone ? 0 : err_set(err, ERR_TIMEOUT, "its keeper does not die");
}

int
keeper_clear(struct session *s, struct err *err)
{
	struct pollfd p = {.fd = s->keeper.pid1, .events = POLLIN};

	if (p.fd >= 0 && poll(&p, 1, PID1_END_MAX_MS) <= 0)
		return err_set(err, ERR_TIMEOUT, "its first process does not end");
	fd_close(&s->keeper.pid1);
	return prepare_clear(&s->m->node, s->row.id, err);
}

/* ---- starting one ---- */

int
keeper_open_dir(struct session *s, const char *name, mode_t mode, struct err *err)
{
	auto_close int fd =
	    session_open_dir(s, err) < 0 ? -1 : path_open_dir(s->dir, name, mode, err);
	if (fd < 0)
		return -1;
	if (node_give(&s->m->node, fd, s->row.slot, mode, err) < 0)
		return err_add(err, "%s", name);
	return fd_steal(&fd);
}

static int
open_lock(struct session *s, struct err *err)
{
	if (session_open_dir(s, err) < 0)
		return -1;
	auto_close int fd = openat(s->dir, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return err_sys(err, errno, "open the session's lock");
	if (flock(fd, LOCK_EX | LOCK_NB) < 0)
		return err_set(err, ERR_UNAVAILABLE, "another keeper holds the session's lock");
	return fd_steal(&fd);
}

bool
keeper_lives(struct session *s)
{
	struct err err;
	auto_close int fd = open_lock(s, &err);
	return fd < 0 && err.code == ERR_UNAVAILABLE;
}

/* The address beneath RUN/keepers, by fd: a path of sockaddr_un holds 107 bytes. */
static struct sockaddr_un
address(const struct session *s)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	snprintf(a.sun_path, sizeof a.sun_path, "/proc/self/fd/%d/%s", s->m->keepers, s->row.id);
	return a;
}

static int
open_listener(struct session *s, struct err *err)
{
	const struct sockaddr_un a = address(s);
	auto_close int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return err_sys(err, errno, "make a socket");
	unlinkat(s->m->keepers, s->row.id, 0);
	if (bind(fd, (const struct sockaddr *)&a, sizeof a) < 0 || listen(fd, 4) < 0)
		return err_sys(err, errno, "listen for the next manager");
	return fd_steal(&fd);
}

static void
add_variable(struct buf *b, const char *name, const char *value)
{
	buf_fmt(b, "%s=%s", name, value);
	buf_char(b, '\0');
}

static bool
is_of_image(const struct image_row *image, const char *name)
{
	const size_t n = strlen(name);

	for (size_t at = 0; at < image->env_bytes; at += strlen(image->env + at) + 1)
		if (strncmp(image->env + at, name, n) == 0 && image->env[at + n] == '=')
			return true;
	return false;
}

/* What every call runs with: the image's own Env, and of ours what that does not name. */
static void
fill_env(struct buf *env, const struct image_row *image, const char *home)
{
	const struct {
		const char *name, *value;
	} ours[] = {
	    {"PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
	    {"HOME", home},
	    {"USER", image->uid ? NULL : "root"},
	    {"LOGNAME", image->uid ? NULL : "root"},
	    {"SHELL",
	     image->content[0] || access("/usr/bin/bash", X_OK) < 0 ? "/bin/sh" : "/bin/bash"},
	};

	for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
		if (ours[i].value && !is_of_image(image, ours[i].name))
			add_variable(env, ours[i].name, ours[i].value);
	buf_add(env, image->env, image->env_bytes);
}

/* What a resource limit must do since no cgroup does it. */
static uint64_t
rlimit_of(const struct manager *m, enum limit l, const struct limits *limits)
{
	return session_limits_by_rlimit(m, l) ? limits->at[l] : 0;
}

/* Where calls begin, and their home: the image's; without an image, places in the directory. */
static int
set_places(const struct session *s, const struct image_row *image, int rootfs,
	   char cwd[PLAIN_PATH_BYTES], char home[PLAIN_PATH_BYTES], struct err *err)
{
	if (!node_stacks(&s->m->node))
		return plain_path(rootfs, "workspace", cwd, err) < 0 ? -1
								     : plain_path(rootfs, "root", home, err);
	if (image->cwd[0])
		snprintf(cwd, PLAIN_PATH_BYTES, "%s", image->cwd);
	if (image->home[0])
		snprintf(home, PLAIN_PATH_BYTES, "%s", image->home);
	return 0;
}

static int
add_tmp(struct buf *env, int rootfs, struct err *err)
{
	char tmp[PLAIN_PATH_BYTES];

	if (plain_path(rootfs, "tmp", tmp, err) < 0)
		return -1;
	add_variable(env, "TMPDIR", tmp);
	return 0;
}

static int
send_start(struct session *s, const int fds[KEEPER_FDS], struct err *err)
{
	struct manager *m = s->m;
	auto_buf env = BUF_MAX(65536), mounts = BUF_MAX(MOUNTS_MAX * MOUNT_TARGET_BYTES);
	uint64_t last = 0;
	auto_free struct image_row *image = xnew(1, sizeof *image);

	if (index_spool_last(&m->index, s->row.id, &last, err) < 0 ||
	    imported_find(m, s->row.image, image, err) < 0)
		return -1;
	char cwd[PLAIN_PATH_BYTES] = "/workspace", home[PLAIN_PATH_BYTES] = "/root";
	if (set_places(s, image, fds[KEEPER_ROOTFS], cwd, home, err) < 0)
		return -1;
	fill_env(&env, image, home);
	if (!node_stacks(&m->node) && add_tmp(&env, fds[KEEPER_ROOTFS], err) < 0)
		return -1;
	session_mount_targets(s, &mounts);
	const struct limits limits = session_limits(s);
	const struct msg_keeper_start start = {
	    .id = str_of(s->row.id),
	    .name = str_of(s->row.name),
	    .keeper_uid = node_keeper_uid(&m->node, s->row.slot),
	    .session_uid_base = node_session_uid(&m->node, s->row.slot),
	    .hostname = str_of(s->shown_as[0] ? s->shown_as : s->row.name),
	    .cwd = str_of(cwd),
	    .home = str_of(home),
	    .shell = STR_LIT("/bin/sh"),
	    .env = buf_view(&env),
	    .next_record = last + 1,
	    .journal_bytes_max = m->config.journal_max,
	    .kill_grace_ns = m->config.kill_grace,
	    .uid = image->uid,
	    .gid = image->gid,
	    .calls_max = (uint32_t)limits.at[LIMIT_CALLS],
	    .limit_memory = limits.at[LIMIT_MEMORY],
	    .limit_pids = limits.at[LIMIT_PIDS],
	    .limit_wall_ns = limits.at[LIMIT_WALL],
	    .limit_files = limits.at[LIMIT_FILES],
	    .limit_tmp = limits.at[LIMIT_TMP],
	    .engine = m->node.isolation.rung == RUNG_PROCESS ? ENGINE_PROCESS : ENGINE_LAUNCH,
	    .ids = m->node.isolation.ids,
	    .rlimit_pids = rlimit_of(m, LIMIT_PIDS, &limits),
	    .rlimit_data = rlimit_of(m, LIMIT_MEMORY, &limits),
	    .walls = choices_walls(&m->config, &s->choices) |
		     (s->choices.throwaway == THROWAWAY_VIEW ? KEEPER_READ_ONLY : 0u),
	    .mounts = buf_view(&mounts),
	    .network = strcmp(s->row.network, "host") == 0,
	};
	return wire_send_fds(&s->keeper.wire, MSG_keeper_start, &start, fds, KEEPER_FDS, err);
}

/* Written from outside: the keeper itself has no right to lower its own. */
static void
protect_from_oom(pid_t pid)
{
	char path[48];

	snprintf(path, sizeof path, "/proc/%d/oom_score_adj", (int)pid);
	auto_close int fd = open(path, O_WRONLY | O_CLOEXEC);
	static bool said;
	if (fd >= 0 && write(fd, "-800", 4) < 0 && !said) {
		log_line("keepers are not protected from the OOM killer: %s",
			 strerrordesc_np(errno));
		said = true; /* the same for all of them: it takes CAP_SYS_RESOURCE */
	}
}

static int
attach(struct session *s, int take_link, int take_pidfd, pid_t pid, struct err *err)
{
	struct keeper *k = &s->keeper;

	assert(k->pidfd < 0); /* a session has one keeper */
	fd_close(&k->pid1);
	*k = (struct keeper){.pidfd = take_pidfd, .pid = pid, .pid1 = -1};
	if (wire_open(&k->wire, take_link, ROLE_MANAGER, ROLE_KEEPER, PHASE_OPEN, err) < 0)
		return -1;
	k->linked = true;
	if (wire_watch(&k->wire, &s->m->loop, on_readable, s, err) < 0)
		return -1;
	return watch_add(&s->m->loop, &k->ended, k->pidfd, EPOLLIN, on_ended, s, err);
}

int
keeper_spawn(struct session *s, struct err *err)
{
	int pair[2], pidfd = -1;
	pid_t pid;

	if (wire_pair(pair, err) < 0)
		return -1;
	auto_close int theirs = pair[1];
	auto_close int ours = pair[0];
	if (spawn_process(s->m->libexec, "berth-keeper", NULL, &theirs, 1, &pid, &pidfd, err) < 0)
		return -1;
	protect_from_oom(pid);
	if (attach(s, fd_steal(&ours), pidfd, pid, err) < 0) {
		keeper_cut(s);
		keeper_close(s);
		return -1;
	}
	return 0;
}

int
keeper_start(struct session *s, int fds[KEEPER_FDS], struct err *err)
{
	fds[KEEPER_LOCK] = open_lock(s, err);
	if (fds[KEEPER_LOCK] < 0)
		return -1;
	fds[KEEPER_CALLS] = keeper_open_dir(s, "calls", 0700, err);
	if (fds[KEEPER_CALLS] < 0)
		return -1;
	fds[KEEPER_LISTEN] = open_listener(s, err);
	if (fds[KEEPER_LISTEN] < 0)
		return -1;
	if (!s->keeper.linked)
		return err_set(err, ERR_UNAVAILABLE, "its keeper ended");
	return send_start(s, fds, err);
}

int
keeper_name(struct session *s, struct err *err)
{
	if (!s->keeper.linked)
		return err_set(err, ERR_AGAIN, "the session has no keeper");
	s->keeper.unnamed = false;
	return wire_send(&s->keeper.wire, keeper_name, err, .name = str_of(s->row.name),
			 .hostname = str_of(s->row.name));
}

static bool
is_keeper(pid_t pid)
{
	static const char keeper[] = "berth-keeper";
	char path[48], exe[4096];

	snprintf(path, sizeof path, "/proc/%d/exe", (int)pid);
	const ssize_t n = readlink(path, exe, sizeof exe - 1);
	if (n > 0) {
		exe[n] = '\0';
		const char *name = strrchr(exe, '/');
		return name && strncmp(name + 1, keeper, sizeof keeper - 1) == 0;
	}
	/* One in the user namespace of an earlier manager shows us no more than its name. */
	snprintf(path, sizeof path, "/proc/%d/comm", (int)pid);
	auto_close int comm = open(path, O_RDONLY | O_CLOEXEC);
	return comm >= 0 && read(comm, exe, sizeof keeper) == sizeof keeper &&
	       memcmp(exe, keeper, sizeof keeper - 1) == 0;
}

int
keeper_find(struct session *s, struct err *err)
{
	const struct sockaddr_un a = address(s);
	struct ucred who;
	socklen_t n = sizeof who;
	auto_close int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return err_sys(err, errno, "make a socket");
	if (connect(fd, (const struct sockaddr *)&a, sizeof a) < 0)
		return 0;
	/* The credentials of a listening socket are of who called listen(2) last: the keeper does
	 * so when it starts, so this names it for sure as long as the connection stands. */
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &n) < 0 || who.pid <= 0)
		return err_set(err, ERR_CORRUPT, "the socket of session %s is not ours",
			       s->row.name);
	const int pidfd = (int)syscall(SYS_pidfd_open, who.pid, 0);
	if (pidfd < 0)
		return 0;
	if (!is_keeper(who.pid)) { /* its manager died before it had called listen(2) */
		close(pidfd);
		return 0;
	}
	if (attach(s, fd_steal(&fd), pidfd, who.pid, err) < 0) {
		keeper_close(s);
		return -1;
	}
	return 1;
}

static int
send_grant(struct session *s, const struct msg_grant_terms *terms, const struct msg_grant *grant,
	   int *out, struct err *err)
{
	int pair[2];

	if (!s->keeper.linked)
		return err_set(err, ERR_AGAIN, "the session has no keeper");
	if (wire_pair(pair, err) < 0)
		return -1;
	auto_close int theirs = pair[0];
	auto_close int ours = pair[1];
	if (wire_send_fds(&s->keeper.wire, MSG_grant_terms, terms, NULL, 0, err) < 0 ||
	    wire_send_fds(&s->keeper.wire, MSG_grant, grant, &theirs, 1, err) < 0)
		return -1;
	*out = fd_steal(&ours);
	return 0;
}

int
keeper_grant(struct session *s, struct conn *c, int *out, struct err *err)
{
	const struct msg_grant_terms terms = {
	    .grant = c->id,
	    .key = permits_text(c->key),
	    .roles = c->roles,
	    /* a snapshot has nothing to connect to */
	    .forwards = s->choices.throwaway ? 0 : forwards_of(c),
	    .flags = c->allow.flags,
	    .permit_open = permits_text(c->allow.open),
	    .permit_listen = permits_text(c->allow.listen),
	};
	const struct msg_grant grant = {
	    .grant = c->id,
	    .principal = str_of(c->principal),
	    .role = str_of(principal_role_name(c->role)),
	    .user = str_of(c->user),
	    .peer = str_of(c->peer),
	    .until_ns = login_deadline_ns(c),
	};
	if (send_grant(s, &terms, &grant, out, err) < 0)
		return -1;
	audit_write(&s->m->audit, "channel", AUDIT_TEXT("conn", c->tag),
		    AUDIT_TEXT("session", s->row.id), AUDIT_TEXT("name", s->row.name),
		    AUDIT_TEXT("principal", c->principal));
	return 0;
}

int
keeper_grant_self(struct session *s, const char *principal, const char *role, int *out,
		  struct err *err)
{
	struct msg_grant grant = {.principal = str_of(principal),
				  .role = str_of(role),
				  .user = str_of(s->row.name),
				  .peer = STR_LIT("berthd")};

	if (getrandom(&grant.grant, sizeof grant.grant, 0) != (ssize_t)sizeof grant.grant)
		return err_sys(err, errno, "get a random number");
	const struct msg_grant_terms terms = {.grant = grant.grant};
	return send_grant(s, &terms, &grant, out, err);
}
