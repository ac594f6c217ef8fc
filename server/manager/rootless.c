/* Becoming root of a user namespace of our own, for a user who has no rights on the node.
 *
 *  1. newuidmap and newgidmap (Debian: uidmap) map the user's subordinate ids, where there are both;
 *     else root inside is the user, and no other id exists;
 *  2. supplementary groups are dropped where the kernel allows it: with a single id it does not. */
#include "base/buf.h"
#include "base/fd.h"
#include "base/num.h"
#include "rung.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <sched.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SUBIDS_MAX_BYTES = 1 << 20, LINE_BYTES = 64 };

struct range {
	unsigned first, count;
};

/* ---- which ids this user was given ---- */

/* One line of subuid(5): name or uid, first, count. */
static bool
take_line(struct str line, const char *user, uid_t uid, struct range *out)
{
	struct str who, first;
	uint64_t number, from, count;
	struct err ignored;

	if (!str_cut(&line, ':', &who) || !str_cut(&line, ':', &first) || !line.at)
		return false;
	const bool by_name = user && str_is(who, user);
	if (!by_name && (num_parse(who, 0, UINT32_MAX, &number, &ignored) < 0 || number != uid))
		return false;
	if (num_parse(first, 1, UINT32_MAX - 1, &from, &ignored) < 0 ||
	    num_parse(line, 1, UINT32_MAX - from, &count, &ignored) < 0)
		return false;
	*out = (struct range){(unsigned)from, (unsigned)count};
	return true;
}

static struct range
find_range(const char *path, const char *user, uid_t uid)
{
	auto_buf text = BUF_MAX(SUBIDS_MAX_BYTES);
	struct range found = {0};
	struct err ignored;

	auto_close int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fd_read_to_end(fd, &text, &ignored) < 0)
		return found;
	struct str rest = buf_view(&text), line;
	while (found.count == 0 && rest.len && str_cut(&rest, '\n', &line))
		if (!take_line(line, user, uid, &found))
			found.count = 0;
	return found;
}

/* ---- mapping ---- */

static int
write_own(const char *name, const char *text, struct err *err)
{
	char path[48];

	snprintf(path, sizeof path, "/proc/self/%s", name);
	auto_close int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return err_sys(err, errno, "open %s", path);
	return fd_write_all(fd, text, strlen(text), err);
}

static int
map_one(uid_t uid, gid_t gid, struct err *err)
{
	char line[LINE_BYTES];

	if (write_own("setgroups", "deny", err) < 0)
		return -1;
	snprintf(line, sizeof line, "0 %u 1\n", (unsigned)uid);
	if (write_own("uid_map", line, err) < 0)
		return -1;
	snprintf(line, sizeof line, "0 %u 1\n", (unsigned)gid);
	return write_own("gid_map", line, err);
}

/* newuidmap PID 0 ID 1 1 FIRST COUNT. Found where Debian has it: it must not come by the PATH. */
static int
run_map(const char *program, pid_t of, unsigned id, struct range r)
{
	char pid[16], own[16], first[16], count[16];
	int status = 0;

	snprintf(pid, sizeof pid, "%d", (int)of);
	snprintf(own, sizeof own, "%u", id);
	snprintf(first, sizeof first, "%u", r.first);
	snprintf(count, sizeof count, "%u", r.count);
	const pid_t child = fork();
	if (child == 0) {
		execl(program, program, pid, "0", own, "1", "1", first, count, (char *)NULL);
		_exit(127);
	}
	if (child < 0)
		return -1;
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -1;
}

/* Outside of the namespace, as newuidmap must be: waits until the parent is in it, then maps it. */
static _Noreturn void
map_parent(int go, pid_t parent, uid_t uid, gid_t gid, struct range uids, struct range gids)
{
	char byte;

	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	if (read(go, &byte, 1) != 1)
		_exit(1);
	if (run_map("/usr/bin/newuidmap", parent, uid, uids) < 0 ||
	    run_map("/usr/bin/newgidmap", parent, gid, gids) < 0)
		_exit(1);
	_exit(0);
}

static int
unshare_user(struct err *err)
{
	if (unshare(CLONE_NEWUSER) < 0)
		return err_sys(err, errno, "make a user namespace");
	return 0;
}

/* 0; 1 the ids cannot be mapped (nothing but root is, then nothing at all); -1. */
static int
enter_mapped(uid_t uid, gid_t gid, struct range uids, struct range gids, struct err *err)
{
	int ends[2], status = 0;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return err_sys(err, errno, "make a pipe");
	auto_close int go = ends[0], say = ends[1];
	const pid_t self = getpid(), helper = fork();
	if (helper == 0) {
		fd_close(&say);
		map_parent(go, self, uid, gid, uids, gids);
	}
	if (helper < 0)
		return err_sys(err, errno, "start a process that maps ids");
	int result = unshare_user(err);
	if (result == 0 && write(say, "", 1) != 1)
		result = err_sys(err, errno, "start the mapping of ids");
	fd_close(&say);
	while (waitpid(helper, &status, 0) < 0 && errno == EINTR)
		;
	if (result < 0)
		return -1;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : 1;
}

static int
become_root(bool mapped, struct err *err)
{
	if (mapped && setgroups(0, NULL) < 0)
		return err_sys(err, errno, "drop the groups");
	if (setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0)
		return err_sys(err, errno, "become root of the user namespace");
	return 0;
}

int
rootless_enter(unsigned *out_ids, char *why, size_t why_bytes, struct err *err)
{
	const uid_t uid = geteuid();
	const gid_t gid = getegid();
	const struct passwd *account = getpwuid(uid);
	const char *user = account ? account->pw_name : NULL;
	const struct range uids = find_range("/etc/subuid", user, uid);
	const struct range gids = find_range("/etc/subgid", user, uid);
	const bool program = access("/usr/bin/newuidmap", X_OK) == 0;

	*out_ids = 0;
	if (uids.count && gids.count && program) {
		const int mapped = enter_mapped(uid, gid, uids, gids, err);
		if (mapped < 0)
			return -1;
		if (mapped == 0) {
			*out_ids = uids.count < gids.count ? uids.count : gids.count;
			return become_root(true, err);
		}
		snprintf(why, why_bytes, "newuidmap or newgidmap failed");
	} else {
		snprintf(why, why_bytes, "%s",
			 program ? "/etc/subuid and /etc/subgid give this user none"
				 : "newuidmap is missing (Debian: apt-get install uidmap)");
		if (unshare_user(err) < 0)
			return -1;
	}
	return map_one(uid, gid, err) < 0 ? err_add(err, "map this user") : become_root(false, err);
}
