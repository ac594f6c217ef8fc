/* Invariants of prepare.c, mounts.c and node.c: what a workspace is made of, and what a failure
 * leaves. */
#include "server/manager/prepare.c"

#include "engine_room.h"

#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

static void
write_text(int dir, const char *name, const char *text)
{
	auto_close int fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
}

static void
release(struct session *s)
{
	session_close_fds(s);
	assert_ok(prepare_clear(&room.node, s->id, room_err));
	fd_close(&s->spill);
	fd_close(&s->dir);
}

static unsigned
count_fds(void)
{
	unsigned n = 0;
	for (int fd = 0; fd < 1024; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static void
test_layers_stack_with_the_topmost_first(void **state)
{
	enum { LAYERS = 20 };
	struct session s;
	int layers[LAYERS];
	char name[32], out[4096];

	(void)state;
	room_or_skip();
	session_new(&s);
	for (int i = 0; i < LAYERS; i++) {
		snprintf(name, sizeof name, "layer-%d", i);
		assert_ok(layers[i] = path_open_dir(s.dir, name, 0755, room_err));
		snprintf(name, sizeof name, "only-%d", i);
		write_text(layers[i], name, name);
		snprintf(name, sizeof name, "%d", i);
		write_text(layers[i], "who", name);
	}
	/* the topmost deletes a file of the lowest, and a directory of the image is made anew */
	assert_int_equal(mknodat(layers[0], "only-19", S_IFCHR, makedev(0, 0)), 0);
	auto_close int opaque = -1;
	assert_ok(opaque = path_open_dir(layers[0], "etc", 0755, room_err));
	assert_int_equal(fsetxattr(opaque, "user.overlay.opaque", "y", 1, 0), 0);
	struct workspace w = session_workspace(&s);
	w.lowers = layers;
	w.n_lowers = LAYERS;
	assert_ok(prepare_workspace(&room.node, &w, s.spill, s.fds, room_err));
	session_launch(&s, false);
	assert_int_equal(
	    session_run(&s, "cat /who; echo; ls / | grep -c only; ls -A /etc; cat /only-18", out,
			sizeof out),
	    0);
	assert_string_equal(out, "0\n19\nhosts\nonly-18"); /* hosts: see keeper/hostname.c */
	assert_int_equal(
	    session_run(&s, "echo new > /who; rm /only-3; chown 5:6 /only-4", out, sizeof out), 0);
	session_stop(&s);
	auto_buf text = BUF_MAX(16);
	struct stat st;
	assert_ok(path_read(layers[0], "who", &text, room_err)); /* lowers are never written */
	assert_string_equal(buf_cstr(&text), "0");
	assert_int_equal(fstatat(layers[4], "only-4", &st, 0), 0);
	assert_int_equal(st.st_uid, 0);
	for (int i = 0; i < LAYERS; i++)
		fd_close(&layers[i]);
}

static void
test_as_many_layers_as_promised_and_no_more(void **state)
{
	struct session s;
	struct err err;
	int layers[LOWERS_MAX + 1];
	char name[32];

	(void)state;
	room_or_skip();
	session_new(&s);
	for (int i = 0; i <= LOWERS_MAX; i++) {
		snprintf(name, sizeof name, "layer-%d", i);
		assert_ok(layers[i] = path_open_dir(s.dir, name, 0755, room_err));
	}
	struct workspace w = session_workspace(&s);
	w.lowers = layers;
	w.n_lowers = LOWERS_MAX + 1;
	assert_int_equal(prepare_workspace(&room.node, &w, s.spill, s.fds, &err), -1);
	w.n_lowers = LOWERS_MAX;
	assert_ok(prepare_workspace(&room.node, &w, s.spill, s.fds, room_err));
	for (int i = 0; i <= LOWERS_MAX; i++)
		fd_close(&layers[i]);
	release(&s);
}

static void
test_a_warm_resume_stacks_the_old_upper(void **state)
{
	struct session s;
	char out[256];

	(void)state;
	room_or_skip();
	session_start(&s);
	assert_int_equal(
	    session_run(&s,
			"echo kept > /workspace/kept; rm /etc/hostname; rm -r /etc/skel; "
			"mkdir /etc/skel; touch /etc/skel/mine; setfattr -n user.a -v b "
			"/workspace/kept",
			out, sizeof out),
	    0);
	wire_close(&s.wire);
	siginfo_t how;
	assert_int_equal(waitid(P_PIDFD, (id_t)s.box.pidfd, &how, WEXITED), 0);
	fd_close(&s.box.pidfd);
	session_close_fds(&s);
	assert_ok(prepare_clear(&room.node, s.id, room_err));
	auto_close int old = -1;
	assert_ok(old = path_open(s.dir, "upper.0/fs", O_RDONLY | O_DIRECTORY, room_err));
	s.upper = 1;
	struct workspace w = session_workspace(&s);
	w.lowers = &old;
	w.n_lowers = 1;
	assert_ok(prepare_workspace(&room.node, &w, s.spill, s.fds, room_err));
	session_launch(&s, false);
	assert_int_equal(
	    session_run(&s,
			"cat /workspace/kept; ls -A /etc/skel; test -e /etc/hostname || "
			"echo gone; getfattr --only-values -n user.a /workspace/kept "
			"2>/dev/null",
			out, sizeof out),
	    0);
	assert_string_equal(out, "kept\nmine\ngone\nb");
	session_stop(&s);
}

static void
test_an_upper_is_mounted_again_with_a_fresh_work_directory(void **state)
{
	struct session s;
	struct stat fs, work;
	char out[64];

	(void)state;
	room_or_skip();
	session_start(&s);
	assert_int_equal(session_run(&s, "echo a > /workspace/a; chmod 700 /", out, sizeof out), 0);
	wire_close(&s.wire);
	siginfo_t how;
	assert_int_equal(waitid(P_PIDFD, (id_t)s.box.pidfd, &how, WEXITED), 0);
	fd_close(&s.box.pidfd);
	session_close_fds(&s);
	auto_close int upper = openat(s.dir, "upper.0", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	write_text(upper, "work/stale", "x");
	struct workspace w = session_workspace(&s);
	w.fresh_work = true;
	assert_ok(prepare_workspace(&room.node, &w, s.spill, s.fds, room_err));
	assert_false(path_exists(upper, "work/stale"));
	assert_int_equal(fstatat(upper, "fs", &fs, 0), 0);
	assert_int_equal(fs.st_mode & 07777,
			 0700); /* the session's root directory is its own business */
	assert_int_equal(fstatat(upper, "work", &work, 0), 0);
	assert_int_equal(work.st_mode & 07777, 0700);
	session_launch(&s, false);
	assert_int_equal(session_run(&s, "cat /workspace/a", out, sizeof out), 0);
	assert_string_equal(out, "a");
	session_stop(&s);
}

static void
test_the_mounts_have_their_flags(void **state)
{
	struct session s;
	struct statvfs fs;

	(void)state;
	room_or_skip();
	session_new(&s);
	const struct workspace w = session_workspace(&s);
	assert_ok(prepare_workspace(&room.node, &w, s.spill, s.fds, room_err));
	assert_int_equal(fstatvfs(s.fds[KEEPER_ROOTFS], &fs), 0);
	assert_int_equal(fs.f_flag & (ST_NODEV | ST_NOSUID | ST_RDONLY), ST_NODEV);
	assert_int_equal(fstatvfs(s.fds[KEEPER_USR], &fs), 0);
	assert_int_equal(fs.f_flag & (ST_NODEV | ST_RDONLY), ST_NODEV | ST_RDONLY);
	assert_int_equal(fstatvfs(s.fds[KEEPER_RUN], &fs), 0);
	assert_int_equal(fs.f_flag & (ST_NODEV | ST_NOSUID | ST_NOEXEC | ST_RDONLY),
			 ST_NODEV | ST_NOSUID | ST_NOEXEC | ST_RDONLY);
	struct stat st;
	assert_int_equal(fstatat(s.fds[KEEPER_ROOTFS], "etc/passwd", &st, 0), 0);
	assert_int_equal(st.st_uid, node_session_uid(&room.node, ROOM_SLOT));
	for (int i = 0; i < OURS_OF_KEEPER; i++)
		assert_true(fcntl(s.fds[ours_of_keeper[i]], F_GETFD) & FD_CLOEXEC);
	release(&s);
}

static void
test_a_failure_leaves_nothing_and_says_where(void **state)
{
	struct session s;
	struct err err;

	(void)state;
	room_or_skip();
	session_new(&s);
	const unsigned fds = count_fds();
	auto_close int foreign = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct workspace w = session_workspace(&s);
	w.lowers = &foreign; /* a filesystem that cannot be mapped */
	w.n_lowers = 1;
	assert_int_equal(prepare_workspace(&room.node, &w, s.spill, s.fds, &err), -1);
	assert_non_null(strstr(err.why, s.id));
	assert_non_null(strstr(err.why, "layer 0"));
	assert_non_null(strstr(err.hint, "id-mapped"));
	for (int i = 0; i < KEEPER_FDS; i++)
		assert_int_equal(s.fds[i], -1);
	assert_false(path_exists(room.node.cgroup, s.id));
	assert_int_equal(count_fds(), fds + 1);
	assert_int_equal(waitpid(-1, NULL, WNOHANG | __WALL), -1); /* no child, dead or alive */
	/* and the same session can be prepared afterwards */
	w.n_lowers = 0;
	assert_ok(prepare_workspace(&room.node, &w, s.spill, s.fds, room_err));
	release(&s);
}

static void
test_an_overlay_that_cannot_be_written_is_a_failure(void **state)
{
	struct session s;
	struct err err;
	int status = -1;

	(void)state;
	room_or_skip();
	session_new(&s);
	const struct workspace w = session_workspace(&s);
	auto_close int upper = -1, userns = -1, mapped = -1, lower = -1;
	assert_ok(upper = open_upper(&w, room_err));
	const unsigned root = node_session_uid(&room.node, ROOM_SLOT);
	assert_ok(userns = mounts_userns(root, 65536, room_err));
	assert_ok(mapped = mounts_clone(upper, 0, userns, room_err));
	assert_ok(lower = mounts_clone(room.image, MOUNT_ATTR_RDONLY, userns, room_err));
	const pid_t pid = fork();
	if (pid == 0) /* as the wrong uid: the kernel would mount it read-only and say nothing */
		_exit(mounts_overlay(&lower, &(bool){false}, 1, mapped, root - 1, &err) < 0 &&
			      strstr(err.why, "read-only")
			  ? 0
			  : 1);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(WEXITSTATUS(status), 0);
	release(&s);
}

static void
test_a_live_session_is_not_prepared_again(void **state)
{
	struct session s;
	struct err err;
	int fds[KEEPER_FDS];
	char out[16];

	(void)state;
	room_or_skip();
	session_start(&s);
	const struct workspace w = session_workspace(&s);
	assert_int_equal(prepare_workspace(&room.node, &w, s.spill, fds, &err), -1);
	assert_int_equal(err.code, ERR_AGAIN);
	assert_true(prepare_is_populated(&room.node, s.id));
	assert_int_equal(session_run(&s, "echo lives", out, sizeof out), 0);
	assert_string_equal(out, "lives");
	session_stop(&s);
}

static void
test_clear_ends_a_session_whatever_it_does(void **state)
{
	struct session s;
	char call[ID_BYTES], out[16];

	(void)state;
	room_or_skip();
	session_start(&s);
	auto_close int output = session_begin(&s, "trap '' TERM HUP INT; sleep 1000 & wait", call);
	assert_ok(prepare_clear(&room.node, s.id, room_err));
	assert_false(prepare_is_populated(&room.node, s.id));
	assert_false(path_exists(room.node.cgroup, s.id));
	read_output(output, out, sizeof out);
	session_stop(&s);
}

static void
test_slots_have_ids_of_their_own(void **state)
{
	struct node n = {.uid_base = ROOM_UID_BASE, .isolation = {.own_uids = true}};
	(void)state;
	const unsigned last = node_slots(ROOM_UID_BASE) - 1;
	assert_int_equal(node_session_uid(&n, 0), ROOM_UID_BASE);
	assert_int_equal(node_session_uid(&n, 1), ROOM_UID_BASE + 65536);
	assert_true(node_session_uid(&n, last) > ROOM_UID_BASE);             /* no overflow */
	assert_true(0xffffffffu - node_session_uid(&n, last) >= 65536u + 1); /* nor the last two */
	assert_true(node_keeper_uid(&n, last) < ROOM_UID_BASE); /* never an id of a session */
	struct session s;
	struct err err;
	room_or_skip();
	session_new(&s);
	struct workspace w = session_workspace(&s);
	w.slot = last + 1;
	assert_int_equal(prepare_workspace(&room.node, &w, s.spill, s.fds, &err), -1);
	assert_int_equal(err.code, ERR_UNAVAILABLE);
	release(&s);
}

static void
test_without_root_the_root_rung_is_refused_with_a_reason(void **state)
{
	int status = -1;

	(void)state;
	room_or_skip();
	const pid_t pid = fork();
	if (pid == 0) {
		struct isolation i;
		struct err err;
		if (seteuid(65534) < 0)
			_exit(2);
		_exit(rung_choose("root", NULL, NULL, &i, &err) < 0 && err.code == ERR_DENIED && strstr(err.why, "root")
			  ? 0
			  : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void
test_berth_init_can_be_read_by_nobody_but_root(void **state)
{
	struct stat st;

	(void)state;
	room_or_skip();
	assert_int_equal(fstat(room.node.init_exe, &st), 0);
	assert_int_equal(st.st_uid, 0);
	assert_int_equal(st.st_gid, 0);
	assert_int_equal(st.st_mode & 07777, 0711);
	assert_true(fcntl(room.node.init_exe, F_GETFL) & O_PATH);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_layers_stack_with_the_topmost_first),
	    cmocka_unit_test(test_as_many_layers_as_promised_and_no_more),
	    cmocka_unit_test(test_a_warm_resume_stacks_the_old_upper),
	    cmocka_unit_test(test_an_upper_is_mounted_again_with_a_fresh_work_directory),
	    cmocka_unit_test(test_the_mounts_have_their_flags),
	    cmocka_unit_test(test_a_failure_leaves_nothing_and_says_where),
	    cmocka_unit_test(test_an_overlay_that_cannot_be_written_is_a_failure),
	    cmocka_unit_test(test_a_live_session_is_not_prepared_again),
	    cmocka_unit_test(test_clear_ends_a_session_whatever_it_does),
	    cmocka_unit_test(test_slots_have_ids_of_their_own),
	    cmocka_unit_test(test_without_root_the_root_rung_is_refused_with_a_reason),
	    cmocka_unit_test(test_berth_init_can_be_read_by_nobody_but_root),
	};
	return cmocka_run_group_tests(tests, room_setup, room_teardown);
}
