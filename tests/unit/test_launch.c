/* The engine as a whole: prepare, start, and what a session can and cannot do inside. The walls are
 * those of ENGINE.md; each is tried from within, as the session's root. */
#include "server/keeper/launch.c"

#include "confine.h"
#include "engine_room.h"

#include <sys/resource.h>
#include <sys/statvfs.h>

static struct session shared; /* one sandbox for the tests that leave it as it is */

static int
setup(void **state)
{
	if (room_setup(state) < 0)
		return -1;
	if (room.open)
		session_start(&shared);
	return 0;
}

static int
teardown(void **state)
{
	if (room.open)
		session_stop(&shared);
	return room_teardown(state);
}

/* text NULL: whatever it writes */
static void
expect(const char *command, int status, const char *text)
{
	char out[4096];
	const int got = session_run(&shared, command, out, sizeof out);
	if (got != status || (text && strcmp(out, text) != 0))
		fail_msg("%s: exit %d, wrote: %s (wanted %d: %s)", command, got, out, status,
			 text ? text : "anything");
}

static void
expect_refused(const char *command)
{
	char out[4096];
	if (session_run(&shared, command, out, sizeof out) == 0)
		fail_msg("%s was allowed, and wrote: %s", command, out);
}

/* ---- what is there ---- */

static void
test_a_command_runs_as_root_of_its_session(void **state)
{
	(void)state;
	room_or_skip();
	expect("id -u; id -g; id -G; hostname; pwd; umask; exit 7", 7,
	       "0\n0\n0\ndemo\n/workspace\n0022");
	expect("tr -s ' ' < /proc/self/uid_map; tr -s ' ' < /proc/self/gid_map", 0,
	       " 0 537329664 65536\n 0 537329664 65536");
}

static void
test_it_sees_its_own_processes_only(void **state)
{
	(void)state;
	room_or_skip();
	expect("ps -e -o args= | grep -c .", 0, "4"); /* init, sh, ps, grep */
	expect("ps -p 1 -o args=", 0, "berth-init");
}

static void
test_each_call_is_born_in_its_own_cgroup_below_a_root_of_its_own(void **state)
{
	(void)state;
	room_or_skip();
	expect("grep -c '^0::/c_[a-z2-7]*$' /proc/self/cgroup; grep ^0:: /proc/1/cgroup", 0,
	       "1\n0::/");
}

static void
test_its_files_are_on_disk_with_native_ids(void **state)
{
	struct stat st;

	(void)state;
	room_or_skip();
	expect(
	    "echo hi > /workspace/a && chown 1000:1000 /workspace/a && chmod 4755 /workspace/a && "
	    "mkdir -p /etc/x && echo y > /etc/x/y && rm /etc/hostname",
	    0, "");
	auto_close int upper = openat(shared.dir, "upper.0/fs", O_PATH | O_CLOEXEC);
	assert_int_equal(fstatat(upper, "workspace/a", &st, 0), 0);
	assert_int_equal(st.st_uid, 1000);
	assert_int_equal(st.st_gid, 1000);
	assert_int_equal(st.st_mode & 07777, 04755);
	assert_int_equal(fstatat(upper, "etc/x/y", &st, 0), 0);
	assert_int_equal(st.st_uid, 0);
	assert_int_equal(st.st_gid, 0);
	assert_int_equal(fstatat(upper, "etc/hostname", &st, 0), 0); /* the deletion */
	assert_true(S_ISCHR(st.st_mode) && st.st_rdev == 0);
}

static void
test_its_files_lie_on_a_mount_without_setuid_and_devices(void **state)
{
	struct statvfs fs;

	(void)state;
	room_or_skip();
	assert_int_equal(fstatvfs(shared.dir, &fs), 0);
	assert_true(fs.f_flag & ST_NOSUID);
	assert_true(fs.f_flag & ST_NODEV);
}

static void
test_devices_limits_and_places_to_write_are_there(void **state)
{
	(void)state;
	room_or_skip();
	expect(
	    "for d in null zero full random urandom tty ptmx; do test -c /dev/$d || echo $d; done; "
	    "for l in fd stdin stdout stderr; do test -L /dev/$l || echo $l; done; "
	    "head -c 4 /dev/zero | wc -c; head -c 4 /dev/urandom | wc -c; echo no > /dev/null; "
	    "echo out > /dev/stdout",
	    0, "4\n4\nout");
	expect("cat /sys/class/net/lo/operstate; ls /sys/class/net", 0, "unknown\nlo");
	expect("ulimit -n; ulimit -c; cat /proc/self/oom_score_adj", 0, "1024\n0\n200");
	struct rlimit ours; /* the most that a session can be given where we may not raise it */
	char command[64];
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &ours), 0);
	snprintf(command, sizeof command, "test $(ulimit -Hn) -le 524288 -a $(ulimit -Hn) -ge %u",
		 ours.rlim_max < 524288 ? (unsigned)ours.rlim_max : 524288);
	expect(command, 0, "");
	expect("for d in /workspace /tmp /run /dev/shm /root /etc /var/tmp; do echo x > $d/w || "
	       "echo $d; "
	       "done",
	       0, "");
	expect("mktemp -u | grep -q . && stat -c %a /tmp /var/tmp /run/lock /root /", 0,
	       "1777\n1777\n1777\n700\n755");
}

/* Each user of a session can ping and serve: what setuid programs do elsewhere. */
static void
test_its_network_is_open_to_its_users(void **state)
{
	(void)state;
	room_or_skip();
	expect("tr '\\t' ' ' < /proc/sys/net/ipv4/ping_group_range; "
	       "cat /proc/sys/net/ipv4/ip_unprivileged_port_start",
	       0, "0 65535\n0");
	expect("echo 0 1 > /proc/sys/net/ipv4/ping_group_range", 2, NULL);
	expect("grep -w demo /etc/hosts; getent hosts demo | tr -s ' '", 0,
	       "127.0.1.1\tdemo\n127.0.1.1 demo");
}

static void
test_nothing_of_the_server_is_handed_down(void **state)
{
	(void)state;
	room_or_skip();
	expect("ls /proc/self/fd | tr '\\n' ' '", 0, "0 1 2 3 "); /* 3: ls's own */
	expect("sort -z /proc/self/environ | tr '\\0' '\\n'", 0,
	       "HOME=/root\nLANG=C.UTF-8\nPATH=/usr/sbin:/usr/bin:/sbin:/bin\nPWD=/workspace");
	expect("grep -E '^Sig(Blk|Ign)' /proc/self/status | tr -d '\\t\\n'", 0,
	       "SigBlk:0000000000000000SigIgn:0000000000000000");
	expect("awk '{print $1}' /proc/mounts | grep -c /var/tmp", 1, "0");
}

static void
test_the_image_shows_nothing_else_of_the_node(void **state)
{
	(void)state;
	room_or_skip();
	expect("cd /; ls | grep -Evx "
	       "'bin|dev|etc|home|lib|lib32|lib64|libx32|media|mnt|opt|proc|root|run|"
	       "sbin|srv|sys|tmp|usr|var|workspace'",
	       1, "");
	expect("ls -A /sys/block /sys/class/block /sys/dev/block /sys/fs/cgroup | grep -v : | grep "
	       "-c .",
	       1, "0");
	expect("cat /proc/keys /proc/interrupts /proc/timer_list | wc -c", 0, "0");
	expect_refused("cat /etc/shadow");
	expect_refused("head -c 1 /proc/kcore | grep -q .");
}

static void
test_ordinary_programs_work(void **state)
{
	char out[256];

	(void)state;
	room_or_skip();
	expect("tar -cf - -C /etc profile | tar -tf -", 0, "profile");
	expect("python3 -c 'import subprocess, threading, socket, tempfile; "
	       "threading.Thread(target=print, args=(1,)).start(); "
	       "print(subprocess.run([\"echo\",\"2\"], capture_output=True).stdout)'",
	       0, "1\nb'2\\n'");
	if (session_run(&shared, "command -v strace", out, sizeof out) == 0)
		expect("strace -o /tmp/trace true && grep -c execve /tmp/trace", 0, "1");
}

/* ---- what is refused ---- */

static void
test_writing_to_the_node_is_refused(void **state)
{
	(void)state;
	room_or_skip();
	expect("touch /usr/x 2>&1 | grep -c 'Read-only file system'", 0, "1");
	static const char *const tries[] = {
	    "echo 1 > /proc/sys/kernel/panic",
	    "echo 1 > /proc/sys/vm/drop_caches",
	    "echo core > /proc/sys/kernel/core_pattern",
	    "echo 100 > /proc/sys/user/max_user_namespaces",
	    "echo h > /proc/sysrq-trigger",
	    "touch /sys/x",
	    "chmod 600 /dev/null",
	    "chown 0 /dev/zero",
	    "date -s 12:00",
	    "hostname other",
	    "dmesg",
	    "mount -o remount,rw /usr",
	    "mount -o remount,rw /proc/sys",
	    "umount /proc/sys",
	};
	for (size_t i = 0; i < sizeof tries / sizeof *tries; i++)
		expect_refused(tries[i]);
}

static void
test_more_rights_are_refused(void **state)
{
	(void)state;
	room_or_skip();
	expect(
	    "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status | tr -d '\\t' | tr '\\n' ' '",
	    0,
	    "CapInh:0000000000000000 CapPrm:00000000a80425fb CapEff:00000000a80425fb "
	    "CapBnd:00000000a80425fb CapAmb:0000000000000000 NoNewPrivs:1 Seccomp:2 ");
	static const char *const tries[] = {
	    "mknod /workspace/disk b 8 0",
	    "mknod /workspace/mem c 1 1",
	    "mount -t tmpfs none /mnt",
	    "mount --bind /etc /mnt",
	    "unshare -Ur true",
	    "unshare -m true",
	    "unshare -n true",
	    "unshare -p -f true",
	    "echo -500 > /proc/self/oom_score_adj",
	    "ulimit -Hn 1000000",
	    "python3 -c 'import socket; socket.socket(40, socket.SOCK_STREAM)'",
	};
	for (size_t i = 0; i < sizeof tries / sizeof *tries; i++)
		expect_refused(tries[i]);
}

static void
test_pid_1_is_out_of_reach(void **state)
{
	(void)state;
	room_or_skip();
	static const char *const tries[] = {
	    "readlink /proc/1/exe",
	    "cat /proc/1/exe",
	    "cat /proc/1/environ",
	    "cat /proc/1/maps",
	    "cat /proc/1/mem",
	    "ls /proc/1/fd",
	    "ls /proc/1/root/",
	    "ls /proc/1/cwd/",
	    "nsenter -t 1 -m true",
	    "echo -5 > /proc/1/oom_score_adj",
	    "cat /proc/1/stack",
	    "python3 -c 'import ctypes, sys; "
	    "sys.exit(0 if ctypes.CDLL(None).ptrace(16, 1, 0, 0) == 0 else 1)'",
	};
	for (size_t i = 0; i < sizeof tries / sizeof *tries; i++)
		expect_refused(tries[i]);
	expect("kill -9 1; kill -STOP 1; kill -SEGV 1; echo on", 0, "on");
}

static void
test_a_trap_in_place_of_a_mount_point_is_not_followed(void **state)
{
	char out[256];
	struct session s;
	struct stat st;

	(void)state;
	room_or_skip();
	session_new(&s);
	const struct workspace w = session_workspace(&s);
	auto_close int upper = -1, fs = -1;
	assert_ok(upper = path_open_dir(s.dir, "upper.0", 0700, room_err));
	assert_ok(fs = path_open_dir(upper, "fs", 0755, room_err));
	assert_int_equal(symlinkat("/var/tmp", fs, "run"), 0);
	assert_int_equal(symlinkat("etc", fs, "proc"), 0);
	assert_int_equal(symlinkat("/", fs, "sys"), 0);
	auto_close int file = openat(fs, "dev", O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
	assert_ok(prepare_workspace(&room.node, &w, s.spill, s.fds, room_err));
	session_launch(&s, false);
	assert_int_equal(session_run(&s,
				     "for d in run proc sys dev; do test -L /$d && echo $d; done; "
				     "stat -fc %T /proc /sys /run /dev; ls /var/tmp",
				     out, sizeof out),
			 0);
	assert_string_equal(out, "proc\nsysfs\ntmpfs\ntmpfs");
	session_stop(&s);
	assert_int_equal(stat("/var/tmp/berth", &st), -1);
}

static void
test_what_stands_in_the_way_of_a_mount_is_moved_aside_and_never_followed(void **state)
{
	char out[512];
	struct session s;

	(void)state;
	room_or_skip();
	session_new(&s);
	struct workspace w = session_workspace(&s);
	auto_close int upper = -1, fs = -1, source = -1;
	assert_ok(upper = path_open_dir(s.dir, "upper.0", 0700, room_err));
	assert_ok(fs = path_open_dir(upper, "fs", 0755, room_err));
	assert_ok(source = path_open_dir(s.dir, "source", 0755, room_err));
	assert_int_equal(mkdirat(source, "mark", 0755), 0);
	assert_int_equal(symlinkat("/var/tmp", fs, "link"), 0);
	assert_int_equal(mkfifoat(fs, "fifo", 0644), 0);
	assert_int_equal(mkdirat(fs, "d", 0755), 0);
	auto_close int file = openat(fs, "d/file", O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
	assert_int_equal(write(file, "kept", 4), 4);
	assert_int_equal(symlinkat("..", fs, "d/file.berth-1"), 0);
	const int sources[] = {source, source, source, source};
	const bool read_only[] = {false, false, false, true};
	w.mounts = sources;
	w.mounts_read_only = read_only;
	w.n_mounts = 4;
	assert_ok(prepare_workspace(&room.node, &w, s.spill, s.fds, room_err));
	struct sandbox_spec spec = session_spec(&s);
	spec.mount_at[0] = "/link/a";
	spec.mount_at[1] = "/fifo";
	spec.mount_at[2] = "/d/file/b/c";
	spec.mount_at[3] = "/new/way";
	session_launch_spec(&s, &spec);
	assert_int_equal(session_run(&s,
				     "ls -d /link/a/mark /fifo/mark /d/file/b/c/mark /new/way/mark; "
				     "readlink /link.berth-1; test -p /fifo.berth-1 && echo fifo; "
				     "cat /d/file.berth-2; echo; touch /new/way/x 2>/dev/null || "
				     "echo ro; ls /var/tmp",
				     out, sizeof out),
			 0);
	assert_string_equal(out, "/d/file/b/c/mark\n/fifo/mark\n/link/a/mark\n/new/way/mark\n/var/tmp\n"
				 "fifo\nkept\nro");
	session_stop(&s);
}

/* ---- walls that an operator lowered ---- */

static void
run_with_walls(uint32_t walls, const char *command, const char *expected)
{
	char out[512];
	struct session s;

	session_new(&s);
	struct workspace w = session_workspace(&s);
	w.nested = walls & KEEPER_WALL_NESTED;
	assert_ok(prepare_workspace(&room.node, &w, s.spill, s.fds, room_err));
	struct sandbox_spec spec = session_spec(&s);
	spec.walls = walls;
	session_launch_spec(&s, &spec);
	session_run(&s, command, out, sizeof out);
	assert_string_equal(out, expected);
	session_stop(&s);
}

/* Capabilities of pid 1's children, whether a setuid program works, a filter is there all the same. */
#define SETUID_PROBE                                                                               \
	"cp /usr/bin/id /workspace/i; chmod 4755 /workspace/i; "                                   \
	"setpriv --reuid 77 --regid 77 --clear-groups /workspace/i -u; "                           \
	"grep -E '^(NoNewPrivs|Seccomp|CapEff|CapBnd):' /proc/self/status | tr -d '\\t'"
#define CAPS "CapEff:00000000a80425fb\nCapBnd:00000000a80425fb\n"

static void
test_setuid_programs_work_only_where_that_wall_is_lower(void **state)
{
	(void)state;
	room_or_skip();
	run_with_walls(0, SETUID_PROBE, "77\n" CAPS "NoNewPrivs:1\nSeccomp:2");
	run_with_walls(KEEPER_WALL_SETUID, SETUID_PROBE, "0\n" CAPS "NoNewPrivs:0\nSeccomp:2");
}

/* A new /proc needs one that is whole; what is locked in the session stays so in the nested one. */
#define NESTED_PROBE                                                                               \
	"unshare -Urmpf sh -c 'mount -t proc proc /proc && echo proc $$; "                         \
	"mount -t tmpfs t /mnt && echo tmpfs; mount -o remount,rw,bind /usr && echo BAD; "         \
	"umount /usr && echo BAD; mknod /mnt/n c 1 1 && echo BAD' 2>/dev/null; "                   \
	"unshare -m true 2>/dev/null && echo BAD; mount -t tmpfs t /mnt 2>/dev/null && echo BAD; "  \
	"nsenter -t 1 -m true 2>/dev/null && echo BAD; head -c1 /proc/interrupts; echo end"

static void
test_nested_namespaces_work_only_where_that_wall_is_lower(void **state)
{
	(void)state;
	room_or_skip();
	run_with_walls(0, NESTED_PROBE, "end");
	run_with_walls(KEEPER_WALL_NESTED, NESTED_PROBE, "proc 1\ntmpfs\nend");
	run_with_walls(KEEPER_WALL_NESTED | KEEPER_WALL_SETUID, NESTED_PROBE, "proc 1\ntmpfs\nend");
}

static void
test_tmp_is_in_memory_only_where_that_was_chosen(void **state)
{
	(void)state;
	room_or_skip();
	run_with_walls(0, "stat -fc %T /tmp; stat -c %a /tmp", "overlayfs\n1777");
	run_with_walls(KEEPER_TMP_IN_MEMORY,
		       "stat -fc %T /tmp; stat -c %a /tmp; grep ' /tmp ' /proc/mounts | grep -c "
		       "nosuid,nodev.*size=65536k; head -c 80M /dev/zero > /tmp/f 2>/dev/null || echo full",
		       "tmpfs\n1777\n1\nfull");
}

/* ---- spilled output ---- */

static void
test_spilled_output_can_be_read_and_not_changed(void **state)
{
	(void)state;
	room_or_skip();
	auto_close int file =
	    openat(shared.spill, "c_1.stdout", O_WRONLY | O_CREAT | O_CLOEXEC, 0640);
	assert_true(file >= 0);
	assert_int_equal(fchown(file, node_keeper_uid(&room.node, ROOM_SLOT),
				node_session_uid(&room.node, ROOM_SLOT)),
			 0);
	assert_int_equal(fchmod(file, 0640), 0);
	assert_int_equal(write(file, "spilled", 7), 7);
	expect("cat /run/berth/out/c_1.stdout", 0, "spilled");
	expect_refused("echo x > /run/berth/out/c_1.stdout");
	expect_refused("rm /run/berth/out/c_1.stdout");
	expect_refused("touch /run/berth/out/new");
}

/* ---- calls, freeze, kill ---- */

static size_t
count_of(const char *text, char c)
{
	size_t n = 0;
	for (; *text; text++)
		n += *text == c;
	return n;
}

/* By the kernel's event: killed processes are counted until they are gone for good. */
static void
await_call_empty(struct session *s, const char *call)
{
	const uint64_t deadline_ns = time_now_ns() + ROOM_WAIT_NS;
	char name[64], text[128];

	snprintf(name, sizeof name, "%s/cgroup.events", call);
	auto_close int events = openat(s->box.cgroup, name, O_RDONLY | O_CLOEXEC);
	for (;;) {
		const ssize_t n = pread(events, text, sizeof text - 1, 0);
		assert_true(n > 0 && time_now_ns() < deadline_ns);
		text[n] = '\0';
		if (strstr(text, "populated 0"))
			return;
		struct pollfd p = {.fd = events, .events = POLLPRI};
		poll(&p, 1, 1000);
	}
}

static void
test_a_call_is_listed_and_killed_by_its_cgroup(void **state)
{
	char call[ID_BYTES], out[256], byte;
	struct sandbox_state now;
	auto_buf list = BUF_MAX(4096);
	int n = -1;

	(void)state;
	room_or_skip();
	auto_close int output = session_begin(
	    &shared,
	    "sleep 1000 & setsid sh -c 'printf \"\\033[31m\"; sleep 2000; : ; # \t\303\244' & "
	    "wait",
	    call);
	assert_int_equal(read(output, &byte, 1), 1); /* the last of them is there */
	as_keeper();
	assert_ok(engine_launch.state(&shared.box, &now, room_err));
	assert_true(now.populated);
	assert_false(now.frozen);
	assert_in_range(now.processes, 3, 4);
	assert_ok(n = engine_launch.call_list(&shared.box, call, &list, room_err));
	assert_in_range(n, 3, 4);
	assert_int_equal(count_of(buf_cstr(&list), '\n'), n);
	assert_non_null(strstr(buf_cstr(&list), " sh -c printf "));
	assert_non_null(strstr(buf_cstr(&list), "# ???"));
	for (const char *p = buf_cstr(&list); *p; p++)
		assert_true(*p == '\n' || (*p >= ' ' && *p <= '~'));
	assert_ok(n = engine_launch.call_end(&shared.box, call, room_err));
	assert_int_equal(n, 0); /* in use */
	assert_ok(engine_launch.call_kill(&shared.box, call, room_err));
	as_root();
	read_output(output, out, sizeof out);
	assert_int_equal(session_exit(&shared), 128 + SIGKILL);
	await_call_empty(&shared, call);
	as_keeper();
	buf_clear(&list);
	assert_ok(n = engine_launch.call_list(&shared.box, call, &list, room_err));
	assert_int_equal(n, 0);
	assert_ok(n = engine_launch.call_end(&shared.box, call, room_err));
	assert_int_equal(n, 1);
	assert_ok(n = engine_launch.call_end(&shared.box, call, room_err)); /* gone is gone */
	assert_int_equal(n, 1);
	as_root();
	expect("echo on", 0, "on"); /* the others are as they were */
}

static void
test_a_call_id_cannot_lead_out_of_box(void **state)
{
	static const char *const bad[] = {"",     ".",
					  "..",   "../x",
					  "c_/x", "cgroup.procs",
					  "C_A",  "c_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};
	struct err err;
	int fd = -1;

	(void)state;
	room_or_skip();
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		assert_int_equal(engine_launch.call_begin(&shared.box, bad[i], &fd, &err), -1);
		assert_int_equal(engine_launch.call_end(&shared.box, bad[i], &err), -1);
		assert_int_equal(engine_launch.call_kill(&shared.box, bad[i], &err), -1);
	}
	assert_int_equal(fd, -1);
}

static void
test_freeze_stops_all_and_thaw_goes_on(void **state)
{
	char call[ID_BYTES], text[64];

	(void)state;
	room_or_skip();
	auto_close int output = session_begin(
	    &shared, "echo up; while :; do echo x; done | head -c 100000000 | tail -c 1", call);
	struct pollfd p = {.fd = output, .events = POLLIN};
	assert_int_equal(poll(&p, 1, 20000), 1); /* it runs: what init has not started yet, a */
	assert_int_equal(read(output, text, sizeof text), 3); /* kill of its cgroup does not end */
	as_keeper();
	assert_ok(engine_launch.freeze(&shared.box, true, room_err));
	session_await(&shared, is_frozen);
	assert_int_equal(poll(&p, 1, 0), 0);
	assert_ok(engine_launch.freeze(&shared.box, false, room_err));
	session_await(&shared, is_thawed);
	assert_ok(engine_launch.call_kill(&shared.box, call, room_err));
	as_root();
	read_output(output, text, sizeof text);
	assert_int_equal(session_exit(&shared), 128 + SIGKILL);
	assert_ok(engine_launch.call_end(&shared.box, call, room_err));
}

static void
test_kill_ends_a_frozen_sandbox(void **state)
{
	struct session s;
	char call[ID_BYTES], text[16];

	(void)state;
	room_or_skip();
	session_start(&s);
	auto_close int output = session_begin(&s, "sleep 1000", call);
	assert_ok(engine_launch.freeze(&s.box, true, room_err));
	session_await(&s, is_frozen);
	assert_true(prepare_is_populated(&room.node, s.id));
	assert_ok(engine_launch.kill(&s.box, room_err));
	struct pollfd p = {.fd = s.box.pidfd, .events = POLLIN};
	assert_int_equal(poll(&p, 1, 20000), 1);
	read_output(output, text, sizeof text);
	session_await(&s, is_empty);
	session_stop(&s);
	assert_false(prepare_is_populated(&room.node, s.id));
}

static void
test_a_session_ends_when_its_keeper_lets_go(void **state)
{
	struct session s;
	char call[ID_BYTES], text[16];

	(void)state;
	room_or_skip();
	session_start(&s);
	auto_close int output = session_begin(&s, "setsid sleep 1000 & sleep 1000", call);
	wire_close(&s.wire);
	read_output(output, text, sizeof text); /* end of file: every writer is gone */
	session_stop(&s);
}

/* The real rights of a keeper, in a process that really gave the others up. */
static void
test_a_confined_keeper_can_do_all_of_this(void **state)
{
	struct session s;
	int status = -1;

	(void)state;
	room_or_skip();
	session_start(&s);
	const pid_t pid = fork();
	if (pid == 0) {
		struct sandbox_state now;
		struct err err;
		int place = -1, step = 1;
		auto_buf list = BUF_MAX(1024);
		if (confine_keeper(node_keeper_uid(&room.node, ROOM_SLOT),
				   node_session_uid(&room.node, ROOM_SLOT), false, &err) < 0)
			_exit(100);
		step += engine_launch.call_begin(&s.box, "c_x", &place, &err) == 0 && place >= 0;
		step += engine_launch.state(&s.box, &now, &err) == 0 && now.populated &&
			now.processes == 0;
		step += engine_launch.freeze(&s.box, true, &err) == 0;
		step += engine_launch.freeze(&s.box, false, &err) == 0;
		step += engine_launch.call_list(&s.box, "c_x", &list, &err) == 0;
		step += engine_launch.call_kill(&s.box, "c_x", &err) == 0;
		step += engine_launch.call_end(&s.box, "c_x", &err) == 1;
		step += engine_launch.kill(&s.box, &err) == 0;
		_exit(step);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 9);
	session_stop(&s);
}

/* ---- start ---- */

static unsigned
count_mounts(void)
{
	auto_buf text = BUF_MAX(1 << 20);
	unsigned n = 0;

	auto_close int fd = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
	assert_ok(fd_read_to_end(fd, &text, room_err));
	for (size_t i = 0; i < text.len; i++)
		n += text.at[i] == '\n';
	return n;
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
test_a_session_leaves_nothing_behind(void **state)
{
	const unsigned mounts = count_mounts(), fds = count_fds();
	struct session s;
	char out[16];

	(void)state;
	room_or_skip();
	for (int i = 0; i < 3; i++) {
		session_start(&s);
		assert_int_equal(
		    session_run(&s, "sleep 100 > /dev/null 2>&1 & exit 3", out, sizeof out), 3);
		session_stop(&s);
		assert_false(path_exists(room.node.cgroup, s.id));
	}
	assert_int_equal(count_mounts(), mounts);
	assert_int_equal(count_fds(), fds);
	assert_int_equal(waitpid(-1, NULL, WNOHANG | __WALL), 0); /* none dead; `shared` lives */
}

/* Each broken part is named, and nothing lives on. */
static void
expect_start_fails(enum keeper_fd broken, int with, const char *words)
{
	struct session s;
	struct err err;
	const unsigned fds = count_fds();

	session_new(&s);
	const struct workspace w = session_workspace(&s);
	assert_ok(prepare_workspace(&room.node, &w, s.spill, s.fds, room_err));
	const int good = s.fds[broken];
	s.fds[broken] = with;
	const struct sandbox_spec spec = session_spec(&s);
	assert_int_equal(engine_launch.start(&spec, &s.box, &err), -1);
	if (!strstr(err.why, words))
		fail_msg("start failed with: %s (wanted: %s)", err.why, words);
	assert_int_equal(s.box.pidfd, -1); /* untouched */
	s.box.events_fd = s.fds[KEEPER_EVENTS];
	s.box.cgroup = s.fds[KEEPER_CGROUP];
	session_await(&s, is_empty);
	s.fds[broken] = good;
	session_close_fds(&s);
	assert_ok(prepare_clear(&room.node, s.id, room_err));
	fd_close(&s.spill);
	fd_close(&s.dir);
	assert_int_equal(count_fds(), fds);
}

static void
test_a_failed_start_names_its_step_and_leaves_no_process(void **state)
{
	(void)state;
	room_or_skip();
	auto_close int file = open("/etc/passwd", O_PATH | O_CLOEXEC);
	auto_close int empty = -1;
	assert_ok(empty = fd_sealed("empty", "", 0, room_err));
	expect_start_fails(KEEPER_ROOTFS, file, "attach the workspace");
	expect_start_fails(KEEPER_USERNS, file, "join the user namespace");
	expect_start_fails(KEEPER_USR, file, "attach /usr");
	expect_start_fails(KEEPER_INIT, file, "execute berth-init");
	expect_start_fails(KEEPER_SECCOMP, empty, "seccomp program of 0 bytes");
}

/* A node without a v2 hierarchy, for the time of one session. */
static int
without_cgroup(struct session *s)
{
	const int cgroup = room.node.cgroup;
	room.node.cgroup = -1;
	session_start(s);
	return cgroup;
}

static void
test_without_a_cgroup_a_session_runs_and_can_be_killed(void **state)
{
	struct session s;
	struct sandbox_state now;
	char out[64];

	(void)state;
	room_or_skip();
	const int cgroup = without_cgroup(&s);
	assert_int_equal(session_run(&s, "echo hi", out, sizeof out), 0);
	assert_string_equal(out, "hi");
	assert_ok(engine_launch.state(&s.box, &now, room_err));
	assert_true(now.populated);
	assert_ok(engine_launch.kill(&s.box, room_err));
	struct pollfd p = {.fd = s.box.pidfd, .events = POLLIN};
	assert_int_equal(poll(&p, 1, 20000), 1);
	assert_ok(engine_launch.state(&s.box, &now, room_err));
	assert_false(now.populated);
	session_stop(&s);
	room.node.cgroup = cgroup;
}

static off_t
size_of_count(struct session *s)
{
	struct stat st;
	char path[64];
	snprintf(path, sizeof path, "upper.%u/fs/workspace/count", s->upper);
	assert_int_equal(fstatat(s->dir, path, &st, 0), 0);
	return st.st_size;
}

static void
test_without_a_cgroup_all_is_stopped_and_what_was_stopped_stays_so(void **state)
{
	struct session s;
	char call[ID_BYTES], out[64];
	struct sandbox_state now;

	(void)state;
	room_or_skip();
	const int cgroup = without_cgroup(&s);
	/* one that never stops forking, one in a session of its own, one that has stopped itself */
	auto_close int output = session_begin(
	    &s,
	    ": > count; while :; do (printf x >> count); done & setsid sleep 300 & "
	    "sh -c 'kill -STOP $$; echo woken' & until grep -q 'State:.T' /proc/$!/status; do :; done; "
	    "echo on; exec sleep 300",
	    call);
	session_started(&s);
	assert_int_equal(read(output, out, 3), 3);
	assert_ok(engine_launch.freeze(&s.box, true, room_err));
	session_await(&s, is_frozen);
	const off_t then = size_of_count(&s);
	for (int i = 0; i < 50; i++)
		assert_ok(engine_launch.state(&s.box, &now, room_err));
	assert_true(now.frozen && now.processes >= 4);
	assert_int_equal(size_of_count(&s), then);
	assert_ok(engine_launch.freeze(&s.box, false, room_err));
	while (size_of_count(&s) == then)
		poll(NULL, 0, 1); /* it forks again: no other event tells */
	assert_ok(engine_launch.state(&s.box, &now, room_err));
	assert_false(now.frozen);
	struct pollfd woken = {.fd = output, .events = POLLIN};
	assert_int_equal(poll(&woken, 1, 100), 0); /* what it says when it is continued */
	session_stop(&s);
	room.node.cgroup = cgroup;
}

static void
test_without_a_cgroup_the_processes_of_a_call_are_known(void **state)
{
	struct session s;
	char call[ID_BYTES], other[ID_BYTES], out[64];
	auto_buf left = BUF_MAX(4096), none = BUF_MAX(4096);
	struct err ignored;
	int list = -1;

	(void)state;
	room_or_skip();
	const int cgroup = without_cgroup(&s);
	auto_close int theirs = session_begin(&s, "echo on; exec sleep 400", other);
	session_started(&s);
	assert_int_equal(read(theirs, out, 3), 3);
	auto_close int output = session_begin(
	    &s, "sleep 301 & sh -c 'sleep 302 & exec sleep 303' & echo on; wait", call);
	session_started(&s);
	assert_int_equal(read(output, out, 3), 3);
	const uint64_t until_ns = time_now_ns() + ROOM_WAIT_NS;
	while (engine_launch.call_list(&s.box, call, &left, &ignored) < 4) {
		assert_true(time_now_ns() < until_ns);
		left.len = 0;
	}
	assert_non_null(strstr(buf_cstr(&left), "sleep 301"));
	assert_non_null(strstr(buf_cstr(&left), "sleep 303"));
	assert_null(strstr(buf_cstr(&left), "sleep 400"));
	assert_ok(engine_launch.call_procs(&s.box, call, &list, room_err));
	assert_true(list >= 0);
	fd_close(&list);
	assert_ok(engine_launch.call_kill(&s.box, call, room_err));
	while (engine_launch.call_end(&s.box, call, &ignored) == 0)
		assert_true(time_now_ns() < until_ns);
	assert_int_equal(engine_launch.call_list(&s.box, other, &none, &ignored), 1);
	session_stop(&s);
	room.node.cgroup = cgroup;
}

static void
test_on_the_network_of_the_node_sys_is_masked_all_the_same(void **state)
{
	struct session s;
	char out[512];

	(void)state;
	room_or_skip();
	session_new(&s);
	struct workspace w = session_workspace(&s);
	w.network = &(const struct network){.kind = NETWORK_HOST};
	assert_ok(prepare_workspace(&room.node, &w, s.spill, s.fds, room_err));
	session_launch(&s, true);
	assert_int_equal(
	    session_run(&s,
			"ls -A /sys/fs/cgroup /sys/block /sys/firmware | grep -v : | grep .; "
			"touch /sys/kernel/x || echo read-only; ls /sys/class/net | wc -l",
			out, sizeof out),
	    0);
	assert_non_null(strstr(out, "read-only\n"));
	assert_null(strstr(out, "berth"));
	session_stop(&s);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_a_command_runs_as_root_of_its_session),
	    cmocka_unit_test(test_it_sees_its_own_processes_only),
	    cmocka_unit_test(test_each_call_is_born_in_its_own_cgroup_below_a_root_of_its_own),
	    cmocka_unit_test(test_its_files_are_on_disk_with_native_ids),
	    cmocka_unit_test(test_its_files_lie_on_a_mount_without_setuid_and_devices),
	    cmocka_unit_test(test_devices_limits_and_places_to_write_are_there),
	    cmocka_unit_test(test_its_network_is_open_to_its_users),
	    cmocka_unit_test(test_nothing_of_the_server_is_handed_down),
	    cmocka_unit_test(test_the_image_shows_nothing_else_of_the_node),
	    cmocka_unit_test(test_ordinary_programs_work),
	    cmocka_unit_test(test_writing_to_the_node_is_refused),
	    cmocka_unit_test(test_more_rights_are_refused),
	    cmocka_unit_test(test_pid_1_is_out_of_reach),
	    cmocka_unit_test(test_a_trap_in_place_of_a_mount_point_is_not_followed),
	    cmocka_unit_test(
		test_what_stands_in_the_way_of_a_mount_is_moved_aside_and_never_followed),
	    cmocka_unit_test(test_setuid_programs_work_only_where_that_wall_is_lower),
	    cmocka_unit_test(test_nested_namespaces_work_only_where_that_wall_is_lower),
	    cmocka_unit_test(test_tmp_is_in_memory_only_where_that_was_chosen),
	    cmocka_unit_test(test_spilled_output_can_be_read_and_not_changed),
	    cmocka_unit_test(test_a_call_is_listed_and_killed_by_its_cgroup),
	    cmocka_unit_test(test_a_call_id_cannot_lead_out_of_box),
	    cmocka_unit_test(test_freeze_stops_all_and_thaw_goes_on),
	    cmocka_unit_test(test_kill_ends_a_frozen_sandbox),
	    cmocka_unit_test(test_a_session_ends_when_its_keeper_lets_go),
	    cmocka_unit_test(test_a_confined_keeper_can_do_all_of_this),
	    cmocka_unit_test(test_a_session_leaves_nothing_behind),
	    cmocka_unit_test(test_a_failed_start_names_its_step_and_leaves_no_process),
	    cmocka_unit_test(test_without_a_cgroup_a_session_runs_and_can_be_killed),
	    cmocka_unit_test(test_without_a_cgroup_all_is_stopped_and_what_was_stopped_stays_so),
	    cmocka_unit_test(test_without_a_cgroup_the_processes_of_a_call_are_known),
	    cmocka_unit_test(test_on_the_network_of_the_node_sys_is_masked_all_the_same),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
