/* A node and its sessions for tests of the engine: the real halves, the real berth-init, a state
 * directory of its own that goes when the test ends. Needs root; says what is missing otherwise. */
#ifndef BERTH_ENGINE_ROOM_H
#define BERTH_ENGINE_ROOM_H

#include "base/fd.h"
#include "base/num.h"
#include "base/path.h"
#include "base/time.h"
#include "keeper/engine.h"
#include "manager/prepare.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define ROOM_WAIT_NS (20 * NS_PER_S)
enum { ROOM_UID_BASE = 0x20000000, ROOM_SLOT = 7 };

static struct {
	bool open;
	char missing[200]; /* why the tests cannot run here */
	char top[64];
	int top_fd, cache, image;
	char image_name[80];
	struct node node;
	unsigned sessions;
} room;

struct session {
	char id[ID_BYTES];
	int dir, spill;
	unsigned upper;
	int fds[KEEPER_FDS];
	struct sandbox box;
	struct wire wire;
	unsigned calls;
	char call[ID_BYTES]; /* the last one that was begun */
};

#define assert_ok(call)                                                                            \
	do {                                                                                       \
		struct err room_why = {.code = ERR_NONE};                                          \
		struct err *const room_err = &room_why;                                            \
		if ((call) < 0)                                                                    \
			fail_msg("%s: %s", #call, room_why.why);                                   \
	} while (0)

static __attribute__((unused)) void
room_or_skip(void)
{
	if (room.open)
		return;
	print_message("skipped: %s\n", room.missing);
	skip();
}

static void
room_own_dir(char *out, size_t n)
{
	const ssize_t k = readlink("/proc/self/exe", out, n - 1);
	out[k < 0 ? 0 : k] = '\0';
	char *slash = strrchr(out, '/');
	if (slash)
		*slash = '\0';
}

/* Group setup: opens the node. Never fails: what is missing is why the tests skip. */
static __attribute__((unused)) int
room_setup(void **state)
{
	struct isolation isolation;
	struct err err;
	char libexec[512], path[600];

	(void)state;
	if (geteuid() != 0) {
		snprintf(room.missing, sizeof room.missing, "not root");
		return 0;
	}
	room_own_dir(libexec, sizeof libexec);
	if (getenv("BERTH_LIBEXEC"))
		snprintf(libexec, sizeof libexec, "%s", getenv("BERTH_LIBEXEC"));
	snprintf(path, sizeof path, "%s/berth-init", libexec);
	if (access(path, F_OK) < 0) {
		snprintf(room.missing, sizeof room.missing, "no berth-init in %.150s", libexec);
		return 0;
	}
	umask(0077); /* as the manager's */
	snprintf(room.top, sizeof room.top, "/var/tmp/berth-engine-XXXXXX");
	if (!mkdtemp(room.top))
		return -1;
	const int top = path_open_top(room.top, 0700, &err);
	if (top < 0 || rung_choose("root", NULL, NULL, &isolation, &err) < 0 ||
	    node_open(&room.node, top, -1, room.top, libexec, ROOM_UID_BASE, &isolation, &err) < 0) {
		snprintf(room.missing, sizeof room.missing, "%.190s", err.why);
		return 0;
	}
	room.top_fd = top;
	room.cache = path_open_dir(room.node.state, "cache", 0700, &err);
	room.image = image_host_open(room.cache, room.image_name, sizeof room.image_name, &err);
	if (room.image < 0) {
		fprintf(stderr, "image: %s\n", err.why);
		return -1;
	}
	room.open = true;
	return 0;
}

/* Sessions that a failed test left running. */
static void
room_clear(void)
{
	struct err err;
	auto_close int own = openat(room.node.cgroup, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *list = own < 0 ? NULL : fdopendir(fd_steal(&own));

	for (const struct dirent *e; list && (e = readdir(list)) != NULL;)
		if (id_is("s_", str_of(e->d_name)) &&
		    prepare_clear(&room.node, e->d_name, &err) < 0)
			fprintf(stderr, "%s\n", err.why);
	if (list)
		closedir(list);
}

static __attribute__((unused)) int
room_teardown(void **state)
{
	struct err err;
	int result = 0;

	(void)state;
	if (room.open) {
		auto_close int above = -1;
		if (room.node.cgroup >= 0) {
			room_clear();
			above = openat(room.node.cgroup, "..", O_PATH | O_CLOEXEC);
		}
		fd_close(&room.image);
		fd_close(&room.cache);
		node_close(&room.node);
		if (above >= 0 && path_exists(above, room.node.cgroup_name)) {
			fprintf(stderr, "cgroup %s stays\n", room.node.cgroup_name);
			result = -1;
		}
		fd_close(&room.top_fd);
		umount2(room.top, MNT_DETACH); /* of our own mount namespace */
	}
	if (room.top[0] && path_remove_tree(AT_FDCWD, room.top, &err) < 0) {
		fprintf(stderr, "%s stays: %s\n", room.top, err.why);
		result = -1;
	}
	return result;
}

/* ---- a session ---- */

static __attribute__((unused)) void
session_new(struct session *s)
{
	char name[32];

	memset(s, 0, sizeof *s);
	for (int i = 0; i < KEEPER_FDS; i++)
		s->fds[i] = -1;
	s->box.pidfd = s->box.socket = -1;
	s->wire.fd = -1;
	id_new("s_", s->id);
	snprintf(name, sizeof name, "session-%u", room.sessions++);
	assert_ok(s->dir = path_open_dir(room.node.state, name, 0700, room_err));
	assert_ok(s->spill = path_open_dir(s->dir, "spill", 0750, room_err));
	assert_int_equal(fchmod(s->spill, 0750), 0);
	assert_int_equal(fchown(s->spill, node_keeper_uid(&room.node, ROOM_SLOT),
				node_session_uid(&room.node, ROOM_SLOT)),
			 0);
}

static __attribute__((unused)) struct workspace
session_workspace(const struct session *s)
{
	return (struct workspace){.id = s->id,
				  .slot = ROOM_SLOT,
				  .session_dir = s->dir,
				  .upper = s->upper,
				  .image = room.image,
				  .image_host = true};
}

static __attribute__((unused)) struct sandbox_spec
session_spec(const struct session *s)
{
	return (struct sandbox_spec){.hostname = "demo",
				     .session = s->id,
				     .uid_base = node_session_uid(&room.node, ROOM_SLOT),
				     .fds = s->fds};
}

static int
room_signal_listed(void *ctx, int list, int signal, struct err *err)
{
	struct session *s = ctx;
	const struct msg_init_signal_listed body = {.signal = (uint32_t)signal};
	return wire_send_fds(&s->wire, MSG_init_signal_listed, &body, &list, 1, err);
}

static __attribute__((unused)) void
session_launch_spec(struct session *s, const struct sandbox_spec *spec)
{
	assert_ok(engine_launch.start(spec, &s->box, room_err));
	s->box.signal_listed = room_signal_listed;
	s->box.signal_ctx = s;
	assert_ok(wire_open(&s->wire, fd_steal(&s->box.socket), ROLE_KEEPER, ROLE_INIT, PHASE_OPEN,
			    room_err));
	assert_ok(wire_recv_wait(&s->wire, time_now_ns() + ROOM_WAIT_NS, room_err));
	assert_int_equal(s->wire.message.id, MSG_init_ready);
}

static __attribute__((unused)) void
session_launch(struct session *s, bool network_host)
{
	struct sandbox_spec spec = session_spec(s);
	spec.network_host = network_host;
	session_launch_spec(s, &spec);
}

static __attribute__((unused)) void
session_start(struct session *s)
{
	session_new(s);
	const struct workspace w = session_workspace(s);
	assert_ok(prepare_workspace(&room.node, &w, s->spill, s->fds, room_err));
	session_launch(s, false);
}

static __attribute__((unused)) void
session_close_fds(struct session *s)
{
	for (int i = 0; i < KEEPER_FDS; i++)
		fd_close(&s->fds[i]);
}

/* Ends pid 1 by cutting its socket, takes its status, clears the cgroup. */
static __attribute__((unused)) void
session_stop(struct session *s)
{
	siginfo_t how = {0};
	struct pollfd p = {.fd = s->box.pidfd, .events = POLLIN};

	if (wire_is_open(&s->wire))
		wire_close(&s->wire);
	assert_int_equal(poll(&p, 1, 20000), 1);
	assert_int_equal(waitid(P_PIDFD, (id_t)s->box.pidfd, &how, WEXITED), 0);
	fd_close(&s->box.pidfd);
	engine_launch.done(&s->box);
	session_close_fds(s);
	assert_ok(prepare_clear(&room.node, s->id, room_err));
	fd_close(&s->spill);
	fd_close(&s->dir);
}

/* ---- commands in it ---- */

/* What follows is done with the keeper's ids and none of root's rights, until as_root. */
static __attribute__((unused)) void
as_keeper(void)
{
	assert_int_equal(setegid(node_session_uid(&room.node, ROOM_SLOT)), 0);
	assert_int_equal(seteuid(node_keeper_uid(&room.node, ROOM_SLOT)), 0);
}

static __attribute__((unused)) void
as_root(void)
{
	assert_int_equal(seteuid(0), 0);
	assert_int_equal(setegid(0), 0);
}

/* Starts /bin/sh -c text in a cgroup of its own. Returns the read end of its output. */
static __attribute__((unused)) int
session_begin(struct session *s, const char *text, char call[ID_BYTES])
{
	auto_buf argv = BUF_MAX(65536);
	int ends[2], place = -1;

	id_new("c_", call);
	memcpy(s->call, call, sizeof s->call);
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	assert_int_equal(fchmod(ends[1], 0666), 0); /* so that /dev/stdout can be opened inside */
	auto_close int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	as_keeper();
	assert_ok(engine_launch.call_begin(&s->box, call, &place, room_err));
	as_root();
	buf_add(&argv, "/bin/sh\0-c", 11);
	buf_add(&argv, text, strlen(text) + 1);
	static const char env[] = "PATH=/usr/sbin:/usr/bin:/sbin:/bin\0LANG=C.UTF-8\0HOME=/root";
	const int fds[4] = {null, ends[1], ends[1], place >= 0 ? place : null};
	const struct msg_init_exec body = {.call = ++s->calls,
					   .no_cgroup = place < 0,
					   .cwd = STR_LIT("/workspace"),
					   .cwd_else = STR_LIT("/"),
					   .argv = buf_view(&argv),
					   .env = {env, sizeof env}};
	assert_ok(wire_send_fds(&s->wire, MSG_init_exec, &body, fds, 4, room_err));
	close(ends[1]);
	fd_close(&place);
	return ends[0];
}

/* Of a call without a cgroup: its first process, told to the engine. */
static __attribute__((unused)) pid_t
session_started(struct session *s)
{
	assert_ok(wire_recv_wait(&s->wire, time_now_ns() + ROOM_WAIT_NS, room_err));
	assert_int_equal(s->wire.message.id, MSG_init_started);
	const pid_t pid = (pid_t)s->wire.message.init_started.pid;
	assert_ok(engine_launch.call_started(&s->box, s->call, pid, room_err));
	return pid;
}

static __attribute__((unused)) int
session_exit(struct session *s)
{
	if (s->box.cgroup < 0)
		session_started(s);
	assert_ok(wire_recv_wait(&s->wire, time_now_ns() + ROOM_WAIT_NS, room_err));
	assert_int_equal(s->wire.message.id, MSG_init_exited);
	const int status = (int)s->wire.message.init_exited.wait_status;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static __attribute__((unused)) void
read_output(int fd, char *out, size_t n)
{
	size_t at = 0;
	for (;;) {
		char rest[512];
		struct pollfd p = {.fd = fd, .events = POLLIN};
		assert_int_equal(poll(&p, 1, 20000), 1);
		const ssize_t k = read(fd, rest, sizeof rest);
		if (k <= 0)
			break;
		for (ssize_t i = 0; i < k && at + 1 < n; i++)
			out[at++] = rest[i];
	}
	while (at > 0 && out[at - 1] == '\n')
		at--;
	out[at] = '\0';
}

/* Runs a command to its end: its exit status, and what it wrote without the last newline. */
static __attribute__((unused)) int
session_run(struct session *s, const char *text, char *out, size_t n)
{
	char call[ID_BYTES];
	auto_close int output = session_begin(s, text, call);
	read_output(output, out, n);
	const int status = session_exit(s);
	assert_ok(engine_launch.call_end(&s->box, call, room_err));
	return status;
}

/* Waits, by the kernel's event, until the sandbox is frozen or not, or has no process left. */
static __attribute__((unused)) void
session_await(struct session *s, bool (*is_so)(const struct sandbox_state *))
{
	const uint64_t deadline_ns = time_now_ns() + ROOM_WAIT_NS;
	struct sandbox_state now;

	for (;;) {
		assert_ok(engine_launch.state(&s->box, &now, room_err));
		if (is_so(&now))
			return;
		assert_true(time_now_ns() < deadline_ns);
		struct pollfd p = {.fd = s->box.events_fd, .events = POLLPRI};
		poll(&p, 1, p.fd < 0 ? 5 : 1000); /* without a cgroup there is no event */
	}
}

static __attribute__((unused)) bool
is_frozen(const struct sandbox_state *now)
{
	return now->frozen;
}

static __attribute__((unused)) bool
is_thawed(const struct sandbox_state *now)
{
	return !now->frozen;
}

static __attribute__((unused)) bool
is_empty(const struct sandbox_state *now)
{
	return !now->populated && now->processes == 0;
}

#endif
