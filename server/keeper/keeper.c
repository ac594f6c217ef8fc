/* berth-keeper: holds one session and all its calls, outside of its walls.
 *   holds      the session's lock; its cgroup's freeze and kill; pid 1 as its child; one socket to
 *              the manager, one to init, one to each conn it was granted
 *   may        read, write and punch files in calls/, make and remove the calls' cgroups, pipes
 *   never      starts a process after pid 1, opens a path outside calls/ and the cgroup, signals a
 *              pid that init named, believes init
 *   if taken   gains this one session's calls and journals
 *
 *  1. rights are given up before a byte of init or of a conn is read;
 *  2. it outlives its manager: calls go on, records wait in the spool, a next manager comes through
 *     the listening socket. One manager at a time: none is replaced while it lives;
 *  3. it ends when pid 1 is reaped, every call has its END frame and its record is in the synced
 *     spool; a manager that is there gets some time to acknowledge them. */
#include "keeper.h"

#include "base/fd.h"
#include "base/log.h"
#include "base/time.h"
#include "confine.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MANAGER_SOCKET = 3, CALLS_MOST = 4000 };
#define START_MAX_NS    (10 * NS_PER_S)
#define FAREWELL_MAX_NS (5 * NS_PER_S)

static void on_manager(void *ctx);

/* ---- what the parts say through us ---- */

static void
manager_lost(struct keeper *k)
{
	if (!wire_is_open(&k->manager))
		return;
	wire_close(&k->manager);
	pause_forget(k);
	settle_forget(k);
	if (k->ended)
		k->loop.stop = true; /* nobody is left to acknowledge: the spool stays */
}

static void
manager_failed(struct keeper *k, const struct err *why)
{
	if (why->code != ERR_UNAVAILABLE)
		log_err(why, "the manager's link is cut");
	manager_lost(k);
}

void
keeper_done(struct keeper *k, uint32_t seq, const struct err *err)
{
	struct sandbox_state state = {0};
	struct err ignored, why;

	if (!wire_is_open(&k->manager))
		return;
	if (!k->ended && k->engine->state(&k->box, &state, &ignored) < 0)
		log_err(&ignored, "count the session's processes");
	if (wire_send(&k->manager, done, &why, .seq = seq,
		      .code = err ? (uint32_t)err->code : (uint32_t)ERR_NONE,
		      .why = err ? str_of(err->why) : STR_LIT(""),
		      .processes = state.processes) < 0)
		log_err(&why, "answer the manager");
}

void
keeper_record(struct keeper *k, struct msg_call_record *record)
{
	struct err err;

	if (record_append(&k->spool, record, &err) < 0) {
		if (!k->spool.failed)
			log_err(&err, "a call record is lost");
		k->spool.failed = true;
		return;
	}
	k->spool.failed = false;
	if (record_send(&k->spool, &k->manager, &err) < 0)
		log_err(&err, "send call records");
}

/* For an engine (engine.h): `list` is lent. */
static int
signal_listed(void *ctx, int list, int signal, struct err *err)
{
	struct keeper *k = ctx;
	const struct msg_init_signal_listed body = {.signal = (uint32_t)signal};

	return wire_send_fds(&k->init, MSG_init_signal_listed, &body, &list, 1, err);
}

int
keeper_signal(struct keeper *k, uint32_t call, uint32_t signal)
{
	struct err err;
	return wire_send(&k->init, init_signal, &err, .call = call, .signal = signal);
}

/* ---- the end ---- */

static void
on_farewell(void *ctx)
{
	struct keeper *k = ctx;

	log_line("the manager has not acknowledged all call records: they stay in the spool");
	k->loop.stop = true;
}

static void
leave_when_acked(struct keeper *k)
{
	if (k->ended && (record_all_acked(&k->spool) || !wire_is_open(&k->manager)))
		k->loop.stop = true;
}

static void
on_pid1(void *ctx, uint32_t events)
{
	struct keeper *k = ctx;
	siginfo_t told = {0};
	struct err err;

	(void)events;
	if (waitid((idtype_t)P_PIDFD, (id_t)k->box.pidfd, &told, WEXITED | WNOHANG) == 0 &&
	    told.si_pid == 0)
		return; /* not yet */
	watch_remove(&k->pid1);
	/* What init had still said comes first: those calls ended by themselves. */
	while (wire_is_open(&k->init) && wire_recv(&k->init, &err) > 0)
		if (k->init.message.id == MSG_init_exited)
			call_exited(k, &k->init.message.init_exited);
	wire_close(&k->init);
	err_set(&err, ERR_UNAVAILABLE, "the session has ended");
	tunnel_init_gone(k, &err);
	putting_end(k, &err);
	/* Where init's end is not that of all others */
	if (k->engine->keeps_kill && k->engine->kill(&k->box, &err) < 0)
		log_err(&err, "end what init has left");
	call_end_all(k, k->pause.state == PAUSE_KILLING ? k->pause.ended_by : "lost");
	k->ended = true;
	if (record_sync(&k->spool, &err) < 0)
		log_err(&err, "the end of the session");
	pause_box_ended(k);
	timer_set(&k->loop, &k->farewell, time_now_ns() + FAREWELL_MAX_NS, on_farewell, k);
	leave_when_acked(k);
}

/* ---- init ---- */

/* Nothing can be run without a trustworthy init: the session is over. */
static void
init_failed(struct keeper *k, const struct err *why)
{
	struct err err;

	if (why->code != ERR_UNAVAILABLE)
		log_err(why, "init is cut");
	wire_close(&k->init);
	tunnel_init_gone(k, why);
	putting_end(k, why);
	if (k->engine->kill(&k->box, &err) < 0)
		log_err(&err, "kill the session");
}

static void
on_init(void *ctx)
{
	struct keeper *k = ctx;
	struct err err;

	for (int i = 0; i < MESSAGES_AT_ONCE; i++) {
		const int got = wire_recv(&k->init, &err);
		if (got == 0)
			return;
		if (got < 0) {
			init_failed(k, &err);
			return;
		}
		struct message *m = &k->init.message;
		if (m->id == MSG_init_exited)
			call_exited(k, &m->init_exited);
		else if (m->id == MSG_init_started)
			call_started(k, m->init_started.call, m->init_started.pid);
		else if (m->id == MSG_init_pty)
			call_take_pty(k, m->init_pty.call, fd_steal(&m->fds[0]));
		else if (m->id == MSG_init_opened)
			sockets_opened(&k->sockets, &m->init_opened, fd_steal(&m->fds[0]));
		else if (m->id == MSG_init_open_failed)
			sockets_failed(&k->sockets, &m->init_open_failed);
	}
}

/* ---- the manager ---- */

static void
take_ack(struct keeper *k, uint64_t record)
{
	struct err err;

	record_ack(&k->spool, record, k->n_calls);
	if (record_send(&k->spool, &k->manager, &err) < 0)
		log_err(&err, "send call records");
	leave_when_acked(k);
}

static void
set_calls_max(struct keeper *k, uint32_t most)
{
	k->calls_max = most < CALLS_MOST ? most : CALLS_MOST;
}

static void
take_limits(struct keeper *k, const struct msg_limits *m)
{
	k->limit_memory = m->limit_memory;
	k->limit_pids = m->limit_pids;
	k->limit_wall_ns = m->limit_wall_ns;
	set_calls_max(k, m->calls_max);
}

static void
take_command(struct keeper *k, struct message *m)
{
	if (m->id == MSG_grant_terms)
		grant_take_terms(k, &m->grant_terms);
	else if (m->id == MSG_grant)
		grant_open(k, &m->grant, fd_steal(&m->fds[0]));
	else if (m->id == MSG_agent_listen)
		grant_agent(k, &m->agent_listen, fd_steal(&m->fds[0]));
	else if (m->id == MSG_revoke)
		grant_revoke(k, m->revoke.grant);
	else if (m->id == MSG_conn_adopt)
		grant_adopt(k, m->conn_adopt.grant, m->fds[0]);
	else if (m->id == MSG_freeze)
		pause_freeze(k, m->freeze.seq);
	else if (m->id == MSG_thaw)
		pause_thaw(k, m->thaw.seq);
	else if (m->id == MSG_hold)
		pause_hold(k, m->hold.seq, m->hold.hold != 0);
	else if (m->id == MSG_terminate)
		pause_terminate(k, m->terminate.seq, m->terminate.grace_ns);
	else if (m->id == MSG_kill)
		pause_kill(k, m->kill.seq, m->kill.ended_by);
	else if (m->id == MSG_record_ack)
		take_ack(k, m->record_ack.record);
	else if (m->id == MSG_suspend)
		pause_suspend(k, &m->suspend);
	else if (m->id == MSG_disk_room)
		excess_take_room(k, m->disk_room.limit_disk, fd_steal(&m->fds[0]));
	else if (m->id == MSG_limits)
		take_limits(k, &m->limits);
	else if (m->id == MSG_journal_watch)
		ask_watch_journal(k, &m->journal_watch);
	else if (m->id == MSG_call_kill)
		ask_kill(k, &m->call_kill);
	else if (m->id == MSG_call_input)
		ask_input(k, &m->call_input);
	else if (m->id == MSG_call_input_close)
		ask_input_close(k, &m->call_input_close);
	else if (m->id == MSG_tree_put)
		putting_begin(k, m);
	else if (m->id == MSG_tree_put_stop)
		putting_stop(k, m->tree_put_stop.seq);
	else if (m->id == MSG_settle)
		settle_set(k, m->settle.on != 0);
	else if (m->id == MSG_settled)
		settle_end(k, m->settled.number);
	else if (m->id == MSG_freeze_settled)
		settle_freeze(k, m->freeze_settled.seq, m->freeze_settled.number);
	else if (m->id == MSG_retention)
		retain_take(k, &m->retention);
	else
		log_line("the manager sent %s to a keeper that has started",
			 wire_message_name(m->id));
}

static void
on_manager(void *ctx)
{
	struct keeper *k = ctx;
	struct err err;

	for (int i = 0; i < MESSAGES_AT_ONCE && wire_is_open(&k->manager); i++) {
		const int got = wire_recv(&k->manager, &err);
		if (got == 0)
			return;
		if (got < 0) {
			manager_failed(k, &err);
			return;
		}
		take_command(k, &k->manager.message);
	}
}

static int
greet_manager(struct keeper *k, int take_fd, struct err *err)
{
	if (wire_open(&k->manager, take_fd, ROLE_KEEPER, ROLE_MANAGER, PHASE_OPEN, err) < 0 ||
	    wire_send(&k->manager, keeper_state, err, .id = str_of(k->id), .name = str_of(k->name),
		      .pid1 = (uint32_t)k->box.pid, .frozen = k->frozen, .held = k->held,
		      .calls = k->n_calls, .grants = k->n_grants,
		      .started_ns = k->started_ns) < 0 ||
	    grant_report_all(k, err) < 0)
		return -1;
	record_rewind(&k->spool);
	if (record_send(&k->spool, &k->manager, err) < 0)
		return -1;
	return wire_watch(&k->manager, &k->loop, on_manager, k, err);
}

/* Whether the manager we have is still there: its end may not have been read yet. */
static bool
manager_lives(struct keeper *k)
{
	/* By hang-up, not by what is to be read: a dead one may have left messages. */
	struct pollfd p = {.fd = k->manager.fd, .events = POLLRDHUP};

	if (!wire_is_open(&k->manager))
		return false;
	return poll(&p, 1, 0) <= 0 || !(p.revents & (POLLHUP | POLLRDHUP | POLLERR));
}

static void
on_listen(void *ctx, uint32_t events)
{
	struct keeper *k = ctx;
	struct ucred peer;
	socklen_t n = sizeof peer;
	struct err err;

	(void)events;
	auto_close int fd =
	    accept4(k->fds[KEEPER_LISTEN], NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0)
		return;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &n) < 0 ||
	    (peer.uid != 0 && peer.uid != k->start_uid) ||
	    (k->engine->is_inside && k->engine->is_inside(peer.pid))) {
		log_line("somebody who is no manager connected: refused");
		return;
	}
	if (manager_lives(k)) {
		log_line("a second manager connected: refused");
		return;
	}
	manager_lost(k);
	if (greet_manager(k, fd_steal(&fd), &err) < 0) {
		log_err(&err, "greet the new manager");
		wire_close(&k->manager);
	}
}

/* ---- start ---- */

static int
take_start(struct keeper *k, struct err *err)
{
	if (wire_recv_wait(&k->manager, time_now_ns() + START_MAX_NS, err) < 0)
		return -1;
	struct message *m = &k->manager.message;
	if (m->id != MSG_keeper_start)
		return err_set(err, ERR_CORRUPT, "the manager sent %s first",
			       wire_message_name(m->id));
	const struct msg_keeper_start *s = &m->keeper_start;
	for (int i = 0; i < KEEPER_FDS; i++)
		k->fds[i] = fd_steal(&m->fds[i]);
	if (str_copy(s->id, k->id, sizeof k->id, err) < 0 ||
	    str_copy(s->name, k->name, sizeof k->name, err) < 0 ||
	    str_copy(s->hostname, k->hostname, sizeof k->hostname, err) < 0 ||
	    str_copy(s->cwd, k->cwd, sizeof k->cwd, err) < 0 ||
	    str_copy(s->home, k->home, sizeof k->home, err) < 0 ||
	    str_copy(s->shell, k->shell, sizeof k->shell, err) < 0)
		return -1;
	buf_str(&k->env, s->env);
	k->journal_bytes_max = s->journal_bytes_max;
	k->kill_grace_ns = s->kill_grace_ns;
	k->uid = s->uid;
	k->gid = s->gid;
	k->limit_memory = s->limit_memory;
	k->limit_pids = s->limit_pids;
	k->limit_wall_ns = s->limit_wall_ns;
	k->read_only = (s->walls & KEEPER_READ_ONLY) != 0;
	set_calls_max(k, s->calls_max);
	log_init("berth-keeper", k->name);
	return 0;
}

static bool
is_socket(int fd)
{
	int listens = 0;
	socklen_t n = sizeof listens;
	return fd >= 0 && getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &n) == 0 && listens;
}

/* Four descriptors a call: as many as the system lets us have. After pid 1 was started, which is to
 * keep the usual limit: old programs close every descriptor below it. */
static void
raise_files(void)
{
	struct rlimit files;

	if (getrlimit(RLIMIT_NOFILE, &files) < 0)
		return;
	files.rlim_cur = files.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &files) < 0)
		log_line("the limit of open files stays where it is");
}

/* The destinations of KEEPER_MOUNTS: views into the message, each with its NUL. */
static int
take_mounts(struct str text, const char *out[KEEPER_MOUNTS_MAX], struct err *err)
{
	for (int i = 0; text.len; i++) {
		const char *end = memchr(text.at, '\0', text.len);
		if (!end || i == KEEPER_MOUNTS_MAX || text.at[0] != '/')
			return err_set(err, ERR_CORRUPT, "the mounts are not a list of paths");
		out[i] = text.at;
		text.len -= (size_t)(end - text.at) + 1;
		text.at = end + 1;
	}
	return 0;
}

/* Starts pid 1, waits for its name where it has none, then gives up all rights, then listens to it. */
static int
start_box(struct keeper *k, struct err *err)
{
	const struct msg_keeper_start s = k->manager.message.keeper_start;
	struct sandbox_spec spec = {
	    .hostname = k->hostname,
	    .session = k->id,
	    .uid_base = s.session_uid_base,
	    .network_host = s.network != 0,
	    .ids = s.ids,
	    .pids = s.rlimit_pids,
	    .data_bytes = s.rlimit_data,
	    .files = s.limit_files,
	    .tmp_bytes = s.limit_tmp,
	    .walls = s.walls,
	    .fds = k->fds,
	};
	static const enum keeper_fd not_needed[] = {
	    KEEPER_ROOTFS, KEEPER_USR,         KEEPER_USERNS,    KEEPER_INIT,    KEEPER_SECCOMP,
	    KEEPER_RUN,    KEEPER_JOIN_MEMORY, KEEPER_JOIN_PIDS, KEEPER_JOIN_CPU, KEEPER_NETNS,
	    KEEPER_SYS,    KEEPER_RESOLV};

	static const struct engine *const engines[] = {
	    [ENGINE_LAUNCH] = &engine_launch, [ENGINE_PROCESS] = &engine_process};
	if (s.engine >= sizeof engines / sizeof *engines)
		return err_set(err, ERR_CORRUPT, "the manager asks for engine %u", s.engine);
	k->engine = engines[s.engine];
	if (take_mounts(s.mounts, spec.mount_at, err) < 0 ||
	    k->engine->start(&spec, &k->box, err) < 0)
		return err_add(err, "start the session's pid 1");
	k->box.signal_listed = signal_listed;
	k->box.signal_ctx = k;
	for (size_t i = 0; i < sizeof not_needed / sizeof *not_needed; i++)
		fd_close(&k->fds[not_needed[i]]);
	for (int i = 0; i < KEEPER_MOUNTS_MAX; i++)
		fd_close(&k->fds[KEEPER_MOUNTS + i]);
	/* Once more, so that SO_PEERCRED of the next manager's connection names this process. */
	if (is_socket(k->fds[KEEPER_LISTEN]) && listen(k->fds[KEEPER_LISTEN], 4) < 0)
		return err_sys(err, errno, "listen for the next manager");
	if (k->name[0] == '\0' && spare_wait(k, err) < 0)
		return -1;
	raise_files();
	if (confine_keeper(s.keeper_uid, s.session_uid_base, k->engine->keeps_kill, err) < 0)
		return err_add(err, "confine the keeper");
	if (wire_open(&k->init, fd_steal(&k->box.socket), ROLE_KEEPER, ROLE_INIT, PHASE_OPEN, err) <
	    0)
		return -1;
	if (wire_recv_wait(&k->init, time_now_ns() + START_MAX_NS, err) < 0)
		return err_add(err, "wait for the session's init");
	if (k->init.message.id != MSG_init_ready)
		return err_set(err, ERR_CORRUPT, "init said %s first",
			       wire_message_name(k->init.message.id));
	if (once_open(&k->once, k->fds[KEEPER_CALLS], err) < 0)
		return -1;
	return record_open(&k->spool, k->fds[KEEPER_CALLS], s.next_record, err);
}

static int
watch_all(struct keeper *k, struct err *err)
{
	if (wire_watch(&k->manager, &k->loop, on_manager, k, err) < 0 ||
	    wire_watch(&k->init, &k->loop, on_init, k, err) < 0 ||
	    watch_add(&k->loop, &k->pid1, k->box.pidfd, EPOLLIN, on_pid1, k, err) < 0)
		return -1;
	if (!is_socket(k->fds[KEEPER_LISTEN]))
		return 0; /* an unused slot: no second manager will come */
	if (fd_set_nonblock(k->fds[KEEPER_LISTEN], err) < 0)
		return -1;
	return watch_add(&k->loop, &k->listen, k->fds[KEEPER_LISTEN], EPOLLIN, on_listen, k, err);
}

static int
start(struct keeper *k, struct err *err)
{
	k->start_uid = getuid();
	k->null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (k->null < 0)
		return err_sys(err, errno, "open /dev/null");
	if (fcntl(MANAGER_SOCKET, F_SETFD, FD_CLOEXEC) < 0)
		return err_sys(err, errno, "find the manager's socket");
	k->room = xnew(1, JOURNAL_WRITE_MAX_BYTES);
	tunnel_init(k);
	if (loop_init(&k->loop, err) < 0 ||
	    wire_open(&k->manager, MANAGER_SOCKET, ROLE_KEEPER, ROLE_MANAGER, PHASE_OPEN, err) < 0)
		return -1;
	if (take_start(k, err) < 0 || start_box(k, err) < 0)
		return -1;
	k->started_ns = time_real_ns();
	if (watch_all(k, err) < 0)
		return -1;
	return wire_send(&k->manager, keeper_started, err, .pid1 = (uint32_t)k->box.pid,
			 .started_ns = k->started_ns);
}

static void
stop(struct keeper *k)
{
	struct err err;

	if (!k->ended && k->box.pid > 0 && k->engine->kill(&k->box, &err) < 0)
		log_err(&err, "kill the session");
	if (k->engine->done)
		k->engine->done(&k->box);
	grant_close_all(k);
	free(k->terms.key);
	allowances_done(&k->terms.allow);
	call_free_all(k);
	ahead_drop(k);
	wire_close(&k->init);
	err_set(&err, ERR_UNAVAILABLE, "the keeper ends");
	tunnel_init_gone(k, &err);
	putting_end(k, &err);
	wire_close(&k->manager);
	record_close(&k->spool);
	once_close(&k->once);
	watch_remove(&k->pid1);
	watch_remove(&k->listen);
	loop_done(&k->loop);
	fd_close(&k->box.pidfd);
	fd_close(&k->box.socket);
	fd_close(&k->null);
	fd_close(&k->disk);
	for (int i = 0; i < KEEPER_FDS; i++)
		fd_close(&k->fds[i]); /* the lock among them: the session is free now */
	buf_free(&k->env);
	free(k->room);
}

static int
run(struct keeper *k)
{
	struct err err, ignored;

	if (start(k, &err) < 0) {
		if (k->name[0]) /* of a spare the manager tells, if it lives */
			log_err(&err, "start");
		if (wire_is_open(&k->manager) &&
		    wire_send(&k->manager, keeper_failed, &ignored, .code = (uint32_t)err.code,
			      .why = str_of(err.why)) < 0 &&
		    k->name[0])
			log_err(&ignored, "tell the manager");
		return err_exit(err.code);
	}
	tunnel_sweep(k);
	ahead_make(k);
	if (loop_run(&k->loop, &err) < 0) {
		log_err(&err, "run");
		return err_exit(err.code);
	}
	return 0;
}

int
main(void)
{
	struct keeper k = {
	    .engine = &engine_launch,
	    .box = {.pidfd = -1,
		    .socket = -1,
		    .cgroup = -1,
		    .freeze_fd = -1,
		    .kill_fd = -1,
		    .events_fd = -1,
		    .proc = -1},
	    .null = -1,
	    .disk = -1,
	    .env = BUF_MAX(65536),
	    .spool = {.fd = -1},
	    .once = {.fd = -1},
	    .ahead = {.file = -1, .place = -1},
	    .putting = {.pipe = -1},
	};

	for (int i = 0; i < KEEPER_FDS; i++)
		k.fds[i] = -1;
	signal(SIGPIPE, SIG_IGN);
	log_init("berth-keeper", "");
	const int status = run(&k);
	stop(&k);
	return status;
}
