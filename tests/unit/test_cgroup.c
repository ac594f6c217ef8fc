/* Invariants of cgroup.c, and the one right that berth-init needs: to be cloned into a call's
 * cgroup that a keeper without privileges has made. */
#include "server/manager/cgroup.c"

#include "base/num.h"

#include <linux/sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <cmocka.h>

enum { KEEPER_UID = 536670912 + 9, SESSION_ID = 536870912 + 9 * 65536 };

static int node = -1;
static char node_name[64], missing[200], session[ID_BYTES];

static int
setup(void **state)
{
	struct err err;
	char path[64];

	(void)state;
	snprintf(path, sizeof path, "/nowhere/%d", getpid());
	if (geteuid() != 0)
		snprintf(missing, sizeof missing, "not root");
	else if ((node = cgroup_open_node(path, node_name, sizeof node_name, &err)) < 0)
		snprintf(missing, sizeof missing, "%.190s", err.why);
	return 0;
}

static int
teardown(void **state)
{
	struct err err;
	(void)state;
	if (node < 0)
		return 0;
	auto_close int above = openat(node, "..", O_PATH | O_CLOEXEC);
	if (remove_cgroup(above, node_name, 0, &err) < 0)
		fprintf(stderr, "%s\n", err.why);
	fd_close(&node);
	return path_exists(above, node_name);
}

static void
node_or_skip(void)
{
	id_new("s_", session);
	if (node >= 0)
		return;
	print_message("skipped: %s\n", missing);
	skip();
}

static void
must(int result, const struct err *err)
{
	if (result < 0)
		fail_msg("%s", err->why);
}

/* A process that sleeps, born in a cgroup. */
static pid_t
sleeper_in(int cgroup)
{
	struct clone_args args = {
	    .flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD, .cgroup = (unsigned)cgroup};
	const pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof args);
	if (pid == 0)
		for (;;)
			pause();
	assert_true(pid > 0);
	return pid;
}

static void
test_the_name_follows_from_the_path_alone(void **state)
{
	struct err err;
	char again[64], other[64];
	char path[64];

	(void)state;
	node_or_skip();
	snprintf(path, sizeof path, "/nowhere/%d", getpid());
	auto_close int same = cgroup_open_node(path, again, sizeof again, &err);
	auto_close int else_ = cgroup_open_node("/elsewhere", other, sizeof other, &err);
	auto_close int above = openat(else_, "..", O_PATH | O_CLOEXEC);
	unlinkat(above, other, AT_REMOVEDIR);
	assert_true(same >= 0 && else_ >= 0);
	assert_string_equal(again, node_name);
	assert_string_not_equal(other, node_name);
	assert_int_equal(strlen(other), strlen("berth-") + 8);
}

static void
test_box_is_the_keepers_and_the_limits_above_are_not(void **state)
{
	struct cgroup_fds c;
	struct stat st;
	struct err err;

	(void)state;
	node_or_skip();
	must(cgroup_make(node, session, KEEPER_UID, SESSION_ID, &c, &err), &err);
	assert_int_equal(fstat(c.box, &st), 0);
	assert_int_equal(st.st_uid, KEEPER_UID);
	assert_int_equal(fstatat(c.box, "cgroup.procs", &st, 0), 0);
	assert_int_equal(st.st_uid, KEEPER_UID);
	assert_int_equal(st.st_gid, SESSION_ID);
	assert_int_equal(st.st_mode & 0777, 0664);
	assert_int_equal(fstatat(c.box, "cgroup.freeze", &st, 0), 0);
	assert_int_equal(st.st_uid, 0); /* it holds an open fd instead */
	assert_int_equal(fstatat(c.box, "../cgroup.procs", &st, 0), 0);
	assert_int_equal(st.st_uid, KEEPER_UID); /* ".." of box is box */
	char above[64];
	snprintf(above, sizeof above, "%s/cgroup.procs", session);
	assert_int_equal(fstatat(node, above, &st, 0), 0);
	assert_int_equal(st.st_uid, 0);
	cgroup_close(&c);
	must(cgroup_clear(node, session, &err), &err);
	assert_false(path_exists(node, session));
	must(cgroup_clear(node, session, &err), &err); /* absent is success */
}

static void
test_clear_kills_frozen_processes_in_nested_cgroups(void **state)
{
	struct cgroup_fds c;
	struct err err;
	int status = 0;

	(void)state;
	node_or_skip();
	must(cgroup_make(node, session, KEEPER_UID, SESSION_ID, &c, &err), &err);
	assert_int_equal(mkdirat(c.box, "c_a", 0755), 0);
	assert_int_equal(mkdirat(c.box, "c_b", 0755), 0);
	auto_close int call = openat(c.box, "c_a", O_PATH | O_DIRECTORY | O_CLOEXEC);
	assert_false(cgroup_is_populated(node, session));
	const pid_t above = sleeper_in(c.box), below = sleeper_in(call);
	assert_true(cgroup_is_populated(node, session));
	assert_int_equal(write(c.freeze, "1", 1), 1);
	must(cgroup_clear(node, session, &err), &err);
	assert_int_equal(waitpid(above, &status, 0), above);
	assert_int_equal(WTERMSIG(status), SIGKILL);
	assert_int_equal(waitpid(below, &status, 0), below);
	assert_int_equal(WTERMSIG(status), SIGKILL);
	assert_false(path_exists(node, session));
	cgroup_close(&c);
}

static void
test_a_cgroup_with_processes_is_not_made_again(void **state)
{
	struct cgroup_fds c, again = {-1, -1, -1, -1};
	struct err err;

	(void)state;
	node_or_skip();
	must(cgroup_make(node, session, KEEPER_UID, SESSION_ID, &c, &err), &err);
	const pid_t pid = sleeper_in(c.box);
	assert_int_equal(cgroup_make(node, session, KEEPER_UID, SESSION_ID, &again, &err), -1);
	assert_int_equal(err.code, ERR_AGAIN);
	assert_int_equal(again.box, -1);
	assert_int_equal(kill(pid, 0), 0); /* and it lives */
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	assert_int_equal(write(c.freeze, "1", 1), 1);
	cgroup_close(&c);
	must(cgroup_make(node, session, KEEPER_UID, SESSION_ID, &c, &err), &err);
	char frozen = '?';
	auto_close int freeze = openat(c.box, "cgroup.freeze", O_RDONLY | O_CLOEXEC);
	assert_int_equal(read(freeze, &frozen, 1), 1);
	assert_int_equal(frozen, '0'); /* what an earlier start left does not hold this one */
	cgroup_close(&c);
	must(cgroup_clear(node, session, &err), &err);
}

/* As init does: in box, with the session root's ids and no rights, into what the keeper made. */
static int
clone_as_session(int box, int call, unsigned gid)
{
	int status = -1;
	struct clone_args args = {
	    .flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD, .cgroup = (unsigned)box};
	const pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof args);
	if (pid == 0) {
		if (setresgid(gid, gid, gid) < 0 ||
		    setresuid(SESSION_ID, SESSION_ID, SESSION_ID) < 0)
			_exit(250);
		args.cgroup = (unsigned)call;
		const pid_t child = (pid_t)syscall(SYS_clone3, &args, sizeof args);
		if (child == 0)
			_exit(0);
		const int why = child < 0 ? errno : 0;
		if (child > 0)
			waitpid(child, NULL, 0);
		_exit(why);
	}
	waitpid(pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void
test_a_session_can_clone_into_a_call_that_an_unprivileged_keeper_made(void **state)
{
	struct cgroup_fds c;
	struct err err;
	int call = -1;

	(void)state;
	node_or_skip();
	must(cgroup_make(node, session, KEEPER_UID, SESSION_ID, &c, &err), &err);
	assert_int_equal(setegid(SESSION_ID), 0);
	assert_int_equal(seteuid(KEEPER_UID), 0);
	const int made = mkdirat(c.box, "c_a", 0755);
	call = openat(c.box, "c_a", O_PATH | O_DIRECTORY | O_CLOEXEC);
	const int opened = fchmodat(call, "cgroup.procs", 0664, 0);
	assert_int_equal(seteuid(0), 0);
	assert_int_equal(setegid(0), 0);
	assert_int_equal(made, 0);
	assert_int_equal(opened, 0);
	assert_int_equal(clone_as_session(c.box, call, SESSION_ID), 0);
	assert_int_equal(clone_as_session(c.box, call, SESSION_ID + 65536), EACCES); /* another's */
	fd_close(&call);
	cgroup_close(&c);
	must(cgroup_clear(node, session, &err), &err);
}

static void
test_mountinfo_is_read_as_the_kernel_writes_it(void **state)
{
	auto_buf path = BUF_MAX(64);
	(void)state;
	unescape(STR_LIT("/a\\040b\\134c\\011"), &path);
	assert_string_equal(buf_cstr(&path), "/a b\\c\t");
	assert_int_equal(open_mountinfo_line(STR_LIT("1 2 0:3 / /tmp rw shared:1 - ext4 a rw")),
			 -1);
	assert_int_equal(open_mountinfo_line(STR_LIT("1 2 0:3 / /tmp rw - cgroup2 a rw")), -1);
	assert_int_equal(open_mountinfo_line(STR_LIT("")), -1);
	auto_close int real = open_hierarchy(&(struct err){0});
	if (real < 0)
		return;
	char link[64], line[512], where[256];
	snprintf(link, sizeof link, "/proc/self/fd/%d", real);
	const ssize_t n = readlink(link, where, sizeof where - 1);
	snprintf(line, sizeof line, "1 2 0:3 / %.*s rw a:1 b - cgroup2 x rw", (int)n, where);
	auto_close int found = open_mountinfo_line(str_of(line));
	assert_true(found >= 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_the_name_follows_from_the_path_alone),
	    cmocka_unit_test(test_box_is_the_keepers_and_the_limits_above_are_not),
	    cmocka_unit_test(test_clear_kills_frozen_processes_in_nested_cgroups),
	    cmocka_unit_test(test_a_cgroup_with_processes_is_not_made_again),
	    cmocka_unit_test(test_a_session_can_clone_into_a_call_that_an_unprivileged_keeper_made),
	    cmocka_unit_test(test_mountinfo_is_read_as_the_kernel_writes_it),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
