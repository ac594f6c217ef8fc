/* A keeper with a real berth-init, over an engine without any isolation: what stands above the
 * engine assumes neither namespaces nor cgroups. The test plays the manager and a conn. */
#ifndef BERTH_KEEPER_ROOM_H
#define BERTH_KEEPER_ROOM_H

#pragma GCC diagnostic ignored "-Wunused-function" /* each test uses what it needs of this */

#define main keeper_main
#include "server/keeper/keeper.c"
#undef main

#include "base/path.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <dirent.h>
#include <poll.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>

/* ---- an engine: a child on a socket, and nothing else ---- */

static int engine_socket; /* a second fd of the keeper's end, to hang up on init */
static bool engine_frozen;

static const char *
init_path(void)
{
	static char path[512];
	const ssize_t n = readlink("/proc/self/exe", path, sizeof path - 16);
	assert_true(n > 0);
	path[n] = '\0';
	char *slash = strrchr(path, '/');
	memcpy(slash + 1, "berth-init", 11);
	return path;
}

static int
engine_start(const struct sandbox_spec *spec, struct sandbox *out, struct err *err)
{
	static char path[512];
	int pair[2];
	(void)spec;
	snprintf(path, sizeof path, "%s", init_path());
	if (wire_pair(pair, err) < 0)
		return -1;
	const pid_t pid = fork();
	if (pid == 0) {
		dup2(pair[1], 3); /* without close-on-exec */
		execl(path, "berth-init", (char *)NULL);
		_exit(111);
	}
	close(pair[1]);
	engine_socket = fcntl(pair[0], F_DUPFD_CLOEXEC, 3);
	out->pid = pid;
	out->socket = pair[0];
	out->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	return out->pidfd < 0 ? err_sys(err, errno, "pidfd") : 0;
}

static int
engine_freeze(struct sandbox *s, bool frozen, struct err *err)
{
	(void)s, (void)err;
	engine_frozen = frozen;
	return 0;
}

static int
engine_kill(struct sandbox *s, struct err *err)
{
	(void)s, (void)err;
	shutdown(engine_socket, SHUT_RDWR); /* init then kills its calls, and ends */
	return 0;
}

static int
engine_state(struct sandbox *s, struct sandbox_state *out, struct err *err)
{
	(void)s, (void)err;
	*out = (struct sandbox_state){.populated = true, .frozen = engine_frozen};
	return 0;
}

static int
engine_call_begin(struct sandbox *s, const char *call, int *out, struct err *err)
{
	(void)s, (void)call, (void)err;
	*out = -1;
	return 0;
}

static int
engine_call_list(struct sandbox *s, const char *call, struct buf *out, struct err *err)
{
	(void)s, (void)call, (void)out, (void)err;
	return 0;
}

static int
engine_call_kill(struct sandbox *s, const char *call, struct err *err)
{
	(void)s, (void)call, (void)err;
	return 0;
}

static int
engine_call_end(struct sandbox *s, const char *call, struct err *err)
{
	(void)s, (void)call, (void)err;
	return 1;
}

const struct engine engine_launch = {
    .name = "plain",
    .start = engine_start,
    .freeze = engine_freeze,
    .kill = engine_kill,
    .state = engine_state,
    .call_begin = engine_call_begin,
    .call_list = engine_call_list,
    .call_kill = engine_call_kill,
    .call_end = engine_call_end,
    .shows_spill = true,
};

/* ---- the manager and a conn ---- */

struct rig {
	char path[64], listen_path[96];
	int dir;           /* calls/, and the home of its calls */
	int memory_events; /* what the keeper reads as the kernel's counters of its cgroup */
	pid_t keeper;
	struct wire manager, conn;
	bool keeps_acks;     /* does not acknowledge records */
	uint64_t records[2]; /* starts and ends that came */
	uint64_t last_record;
	struct buf last_end; /* "ended_by status signal" of the last end */
};

static const uint64_t patience = 20 * NS_PER_S;

static void
send_failed(const struct err *err)
{
	fail_msg("%s", err->why);
}
#define MUST(x)                                                                                    \
	do {                                                                                       \
		struct err err_;                                                                   \
		struct err *err = &err_;                                                           \
		if ((x) < 0)                                                                       \
			send_failed(err);                                                          \
	} while (0)

static int
listen_at(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	const int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
	assert_int_equal(listen(fd, 4), 0);
	return fd;
}

static void
run_keeper(int socket)
{
	dup2(socket, 3);
	syscall(SYS_close_range, 4u, ~0u, 0u);
	_exit(keeper_main());
}

static void
take_record(struct rig *r)
{
	const struct msg_call_record *m = &r->manager.message.call_record;
	const uint64_t number = m->record;
	assert_true(number > r->last_record); /* in order */
	r->last_record = number;
	r->records[str_is(m->kind, "end")]++;
	if (str_is(m->kind, "end")) {
		buf_clear(&r->last_end);
		buf_str(&r->last_end, m->ended_by);
		buf_fmt(&r->last_end, " %u %u", m->exit_status, m->signal);
	}
	if (!r->keeps_acks)
		MUST(wire_send(&r->manager, record_ack, err, .record = number));
}

/* The manager's next message that is no record. */
static struct message *
manager_next(struct rig *r)
{
	for (;;) {
		MUST(wire_recv_wait(&r->manager, time_now_ns() + patience, err));
		if (r->manager.message.id != MSG_call_record)
			return &r->manager.message;
		take_record(r);
	}
}

static void
grant_conn(struct rig *r, uint64_t number, struct wire *conn)
{
	int pair[2];
	MUST(wire_pair(pair, err));
	const struct msg_grant m = {.grant = number,
				    .principal = STR_LIT("tester"),
				    .role = STR_LIT("developer"),
				    .user = STR_LIT("demo"),
				    .peer = STR_LIT("127.0.0.1:1")};
	MUST(wire_send(&r->manager, grant_terms, err, .grant = number, .key = STR_LIT("x KEY"),
		       .roles = 6, .forwards = 5, .flags = ALLOW_ALL, .permit_open = STR_LIT("a:1")));
	MUST(wire_send_fds(&r->manager, MSG_grant, &m, &pair[0], 1, err));
	close(pair[0]);
	MUST(wire_open(conn, pair[1], ROLE_CONN, ROLE_KEEPER, PHASE_OPEN, err));
}

static uint32_t rig_walls; /* of the next one */

/* name: empty for a spare, which is told its name later. */
static int
rig_up_as(void **state, const char *name)
{
	struct rig *r = xnew(1, sizeof *r);
	int pair[2], fds[KEEPER_FDS];
	*state = r;
	r->last_end = BUF_MAX(100);
	memcpy(r->path, "/tmp/berth-keeper-XXXXXX", 25);
	assert_non_null(mkdtemp(r->path));
	r->dir = open(r->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	snprintf(r->listen_path, sizeof r->listen_path, "%s/socket", r->path);
	MUST(wire_pair(pair, err));
	for (int i = 0; i < KEEPER_FDS; i++)
		fds[i] = open("/dev/null", O_RDWR | O_CLOEXEC);
	r->memory_events = openat(r->dir, "memory.events", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_true(r->memory_events >= 0);
	assert_true(dup3(r->memory_events, fds[KEEPER_MEMORY_EVENTS], O_CLOEXEC) >= 0);
	close(fds[KEEPER_CALLS]);
	fds[KEEPER_CALLS] = dup(r->dir);
	close(fds[KEEPER_LISTEN]);
	fds[KEEPER_LISTEN] = listen_at(r->listen_path);
	r->keeper = fork();
	if (r->keeper == 0)
		run_keeper(pair[1]);
	close(pair[1]);
	MUST(wire_open(&r->manager, pair[0], ROLE_MANAGER, ROLE_KEEPER, PHASE_OPEN, err));
	static const char env[] = "PATH=/usr/bin:/bin\0HOME=/tmp\0KEEP=base\0";
	const struct msg_keeper_start m = {
	    .id = STR_LIT("s_aaaaaaaaaaaaaaaa"),
	    .name = str_of(name),
	    .hostname = str_of(name),
	    .cwd = STR_LIT("/"),
	    .home = str_of(r->path),
	    .shell = STR_LIT("/bin/sh"),
	    .env = {env, sizeof env - 1},
	    .next_record = 100,
	    .journal_bytes_max = 4 << 20,
	    .kill_grace_ns = NS_PER_S,
	    .calls_max = 100,
	    .walls = rig_walls,
	};
	MUST(wire_send_fds(&r->manager, MSG_keeper_start, &m, fds, KEEPER_FDS, err));
	for (int i = 0; i < KEEPER_FDS; i++)
		close(fds[i]);
	assert_int_equal(manager_next(r)->id, *name ? MSG_keeper_started : MSG_keeper_ready);
	if (*name)
		grant_conn(r, 1, &r->conn);
	return 0;
}

static int
rig_up(void **state)
{
	return rig_up_as(state, "demo");
}

static int
rig_up_spare(void **state)
{
	return rig_up_as(state, "");
}

static int
wait_keeper(struct rig *r)
{
	int status = -1;
	if (r->keeper > 0)
		waitpid(r->keeper, &status, 0);
	r->keeper = 0;
	return status;
}

static int
rig_down(void **state)
{
	struct rig *r = *state;
	struct err err;
	if (r->keeper > 0) {
		r->keeps_acks = false;
		if (wire_is_open(&r->manager)) {
			MUST(wire_send(&r->manager, kill, err, .seq = 99,
				       .ended_by = STR_LIT("kill")));
			while (wire_recv_wait(&r->manager, time_now_ns() + patience, &err) > 0)
				if (r->manager.message.id == MSG_call_record)
					take_record(
					    r); /* until the keeper has said all, and ends */
		}
		assert_int_equal(wait_keeper(r), 0);
	}
	wire_close(&r->conn);
	wire_close(&r->manager);
	buf_free(&r->last_end);
	close(r->dir);
	close(r->memory_events);
	const int root = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(path_remove_tree(root, r->path + 1, &err), 0);
	close(root);
	free(r);
	return 0;
}

/* ---- one call, as a conn sees it ---- */

struct seen {
	char call[ID_BYTES];
	uint32_t channel;
	int input, journal, growth;
	struct journal_reader reader;
	struct buf out, err;
	struct hasher *sum; /* when given: of stdout, which is not kept then */
	uint64_t out_bytes;
	bool refused, journal_ended, told, joined, live;
	char notice[513];
	uint32_t code, status, signal;
	uint64_t journal_bytes, ended_at_ns;
	char ended_by[17];
};

/* env: "NAME=VALUE\0" each. */
static void
ask_with(struct rig *r, struct seen *s, uint32_t channel, const char *command, bool pty,
	 struct str env)
{
	*s = (struct seen){.channel = channel,
			   .input = -1,
			   .journal = -1,
			   .growth = -1,
			   .out = BUF_MAX(64 << 20),
			   .err = BUF_MAX(1 << 20)};
	MUST(wire_send(&r->conn, call_start, err, .channel = channel, .command = str_of(command),
		       .env = env, .pty = pty, .term = STR_LIT("vt100"), .columns = 81,
		       .rows = 25));
}

static void
ask(struct rig *r, struct seen *s, uint32_t channel, const char *command, bool pty)
{
	ask_with(r, s, channel, command, pty, STR_LIT("KEEP=call\0LANG=C\0BERTH_TIMEOUT=1h\0"));
}

/* Takes one message for one of n calls. */
static void
take(struct rig *r, struct seen *calls, size_t n)
{
	MUST(wire_recv_wait(&r->conn, time_now_ns() + patience, err));
	struct message *m = &r->conn.message;
	const uint32_t channel = m->call_started.channel; /* the first field of each */
	struct seen *s = NULL;
	for (size_t i = 0; i < n; i++)
		if (calls[i].channel == channel)
			s = &calls[i];
	assert_non_null(s);
	if (m->id == MSG_call_joined && s->journal >= 0) { /* it is the owner from now on */
		s->input = fd_steal(&m->fds[0]);
	} else if (m->id == MSG_call_started || m->id == MSG_call_joined) {
		s->joined = m->id == MSG_call_joined;
		s->live = !s->joined || m->call_joined.live;
		MUST(str_copy(s->joined ? m->call_joined.call : m->call_started.call, s->call,
			      sizeof s->call, err));
		s->input = fd_steal(&m->fds[0]);
		s->journal = fd_steal(&m->fds[1]);
		s->growth = fd_steal(&m->fds[2]);
		journal_reader_init(&s->reader, s->journal);
	} else if (m->id == MSG_call_refused) {
		s->refused = s->told = true;
		s->code = m->call_refused.code;
	} else {
		assert_int_equal(m->id, MSG_call_ended);
		s->told = true;
		s->status = m->call_ended.exit_status;
		s->signal = m->call_ended.signal;
		s->journal_bytes = m->call_ended.journal_bytes;
		s->ended_at_ns = time_now_ns();
		MUST(str_copy(m->call_ended.ended_by, s->ended_by, sizeof s->ended_by, err));
		MUST(str_copy(m->call_ended.notice, s->notice, sizeof s->notice, err));
	}
}

static void
take_frame(struct seen *s, const struct journal_frame *f, const char *bytes)
{
	assert_int_equal(f->gap_bytes, 0); /* never for the owner */
	if (f->kind == JOURNAL_END)
		s->journal_ended = true;
	if (f->kind != JOURNAL_DATA)
		return;
	if (f->stream == JOURNAL_OUT)
		s->out_bytes += f->length;
	if (f->stream == JOURNAL_OUT && s->sum)
		hasher_add(s->sum, bytes, f->length);
	else
		buf_add(f->stream == JOURNAL_OUT ? &s->out : &s->err, bytes, f->length);
}

static void
read_journal(struct rig *r, struct seen *s)
{
	static char bytes[65536];
	struct journal_frame f;
	struct err err;
	int got = 0;
	if (s->journal < 0)
		return;
	while (!s->journal_ended &&
	       (got = journal_next(&s->reader, bytes, sizeof bytes, &f, &err)) > 0) {
		take_frame(s, &f, bytes);
		if (s->reader.at > s->journal_bytes) /* else it has ended, and nobody waits */
			MUST(wire_send(&r->conn, call_taken, err, .channel = s->channel,
				       .journal_bytes = s->reader.at));
	}
	assert_true(got >= 0);
}

/* Until the call has ended and its journal was read. */
static void
finish_call(struct rig *r, struct seen *s)
{
	read_journal(r, s);
	while (!s->told || (!s->refused && !s->journal_ended)) {
		struct pollfd p[2] = {{.fd = r->conn.fd, .events = POLLIN},
				      {.fd = s->growth, .events = POLLIN}};
		assert_true(poll(p, 2, 20000) > 0);
		if (p[1].revents) {
			uint64_t n;
			assert_int_equal(read(s->growth, &n, sizeof n), sizeof n);
		}
		if (p[0].revents)
			take(r, s, 1);
		read_journal(r, s);
	}
	if (!s->refused)
		assert_int_equal(s->reader.at, s->journal_bytes);
}

static void
done_with(struct seen *s)
{
	fd_close(&s->input);
	fd_close(&s->journal);
	fd_close(&s->growth);
	buf_free(&s->out);
	buf_free(&s->err);
}

/* As conn does: its end of the pipe, and the word that the keeper's may go too. */
static void
end_input(struct rig *r, struct seen *s)
{
	fd_close(&s->input);
	MUST(wire_send(&r->conn, call_input_end, err, .channel = s->channel));
}

static void
started(struct rig *r, struct seen *s)
{
	take(r, s, 1);
	assert_false(s->refused);
}

static void
call(struct rig *r, struct seen *s, const char *command)
{
	ask(r, s, 7, command, false);
	started(r, s);
	end_input(r, s);
	finish_call(r, s);
}

static struct message *
command_done(struct rig *r, uint32_t seq)
{
	struct message *m = manager_next(r);
	assert_int_equal(m->id, MSG_done);
	assert_int_equal(m->done.seq, seq);
	return m;
}

static char
state_of(pid_t pid)
{
	char path[64], text[256];

	snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
	auto_close int fd = open(path, O_RDONLY | O_CLOEXEC);
	const ssize_t n = read(fd, text, sizeof text - 1);
	assert_true(n > 0);
	text[n] = '\0';
	return strrchr(text, ')')[2];
}

/* One turn of the keeper's loop from its event to its timers: it has answered, and waits again. */
static void
turn(struct rig *r)
{
	MUST(wire_send(&r->manager, hold, err, .seq = 77, .hold = 0));
	command_done(r, 77);
	while (state_of(r->keeper) != 'S')
		poll(NULL, 0, 1); /* no event tells of a process's state */
}

static void
records_reach(struct rig *r, uint64_t starts, uint64_t ends)
{
	while (r->records[0] < starts || r->records[1] < ends) {
		MUST(wire_recv_wait(&r->manager, time_now_ns() + patience, err));
		assert_int_equal(r->manager.message.id, MSG_call_record);
		take_record(r);
	}
}

#endif
