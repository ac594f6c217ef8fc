/* cgroup v2, from the side that owns all of it.
 *
 * Invariants
 *  1. no pid is ever read or signalled here: a cgroup is killed as a whole;
 *  2. of a session's cgroups only box and what of it cgroups(7) gives to a delegate belong to the
 *     keeper; limits stand one level above, out of its reach;
 *  3. the wait for an empty cgroup is an event (poll on cgroup.events) with a bound. */
#include "cgroup.h"
#include "base/buf.h"
#include "base/digest.h"
#include "base/fd.h"
#include "base/path.h"
#include "base/time.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <poll.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#define CLEAR_MAX_NS (10 * NS_PER_S)
#define LAST_MAX_NS  (500 * NS_PER_MS) /* from a process's end until its cgroup knows */
enum { MOUNTS_MAX_BYTES = 4 << 20, EVENTS_MAX_BYTES = 4096, DEPTH_MAX = 8 };

/* ---- where it is ---- */

static int
open_if_v2(const char *path)
{
	struct statfs fs;
	auto_close int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fstatfs(fd, &fs) < 0 || fs.f_type != CGROUP2_SUPER_MAGIC)
		return -1;
	return fd_steal(&fd);
}

/* mountinfo writes space, tab, newline and backslash as \ooo. */
static void
unescape(struct str text, struct buf *out)
{
	for (size_t i = 0; i < text.len; i++) {
		if (text.at[i] == '\\' && i + 3 < text.len) {
			const int c = (text.at[i + 1] - '0') << 6 | (text.at[i + 2] - '0') << 3 |
				      (text.at[i + 3] - '0');
			buf_char(out, (char)c);
			i += 3;
			continue;
		}
		buf_char(out, text.at[i]);
	}
}

/* One line: id, parent, device, root, mount point, options, optional fields, "-", type, … */
static int
open_mountinfo_line(struct str line)
{
	struct str word, where = {0};
	bool after = false;

	for (int i = 0; str_cut(&line, ' ', &word); i++) {
		if (i == 4)
			where = word;
		if (after) {
			if (!str_is(word, "cgroup2"))
				return -1;
			auto_buf path = BUF_MAX(4096);
			unescape(where, &path);
			return open_if_v2(buf_cstr(&path));
		}
		after = i > 4 && str_is(word, "-");
	}
	return -1;
}

static int
open_hierarchy(struct err *err)
{
	static const char *const usual[] = {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"};

	for (size_t i = 0; i < sizeof usual / sizeof *usual; i++) {
		const int fd = open_if_v2(usual[i]);
		if (fd >= 0)
			return fd;
	}
	auto_buf mounts = BUF_MAX(MOUNTS_MAX_BYTES);
	auto_close int list = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
	if (list < 0)
		return err_sys(err, errno, "open /proc/self/mountinfo");
	if (fd_read_to_end(list, &mounts, err) < 0)
		return err_add(err, "/proc/self/mountinfo");
	struct str rest = buf_view(&mounts), line;
	while (str_cut(&rest, '\n', &line)) {
		const int fd = open_mountinfo_line(line);
		if (fd >= 0)
			return fd;
	}
	return err_set(err, ERR_UNAVAILABLE, "no cgroup v2 hierarchy is mounted");
}

/* Our own place in the hierarchy, where it was delegated to us: without root that is all there is.
 * A process starts there, so the right to move processes within it comes with it (cgroups(7)). */
static int
open_delegated(int top, struct err *err)
{
	auto_buf text = BUF_MAX(EVENTS_MAX_BYTES);
	struct str rest, line, path = {0};

	auto_close int list = open("/proc/self/cgroup", O_RDONLY | O_CLOEXEC);
	if (list < 0)
		return err_sys(err, errno, "open /proc/self/cgroup");
	if (fd_read_to_end(list, &text, err) < 0)
		return err_add(err, "/proc/self/cgroup");
	rest = buf_view(&text);
	while (!path.len && rest.len && str_cut(&rest, '\n', &line))
		if (str_starts(line, "0::/"))
			path = (struct str){line.at + 4, line.len - 4};
	if (!path.len)
		return err_set(err, ERR_UNAVAILABLE, "no cgroup was delegated to this process");
	auto_buf name = BUF_MAX(EVENTS_MAX_BYTES);
	buf_str(&name, path);
	auto_close int own = path_open(top, buf_cstr(&name), O_RDONLY | O_DIRECTORY, err);
	if (own < 0)
		return -1;
	if (faccessat(own, "cgroup.procs", W_OK, AT_EACCESS) < 0)
		return err_set(err, ERR_UNAVAILABLE, "the cgroup of this process is not its own");
	return fd_steal(&own);
}

int
cgroup_open_node(const char *state_path, char *out_name, size_t name_bytes, struct err *err)
{
	const struct digest sum = digest_of(str_of(state_path));
	const struct digest_text hex = digest_text(&sum);

	snprintf(out_name, name_bytes, "berth-%.8s", hex.text); /* v1 hierarchies use it too */
	auto_close int top = open_hierarchy(err);
	if (top < 0)
		return -1;
	int fd = path_open_dir(top, out_name, 0755, err);
	if (fd < 0) {
		auto_close int own = open_delegated(top, err);
		fd = own < 0 ? -1 : path_open_dir(own, out_name, 0755, err);
	}
	if (fd < 0) {
		err->code = ERR_UNAVAILABLE;
		return err_add(err, "a cgroup for the sessions");
	}
	return fd;
}

/* ---- one session ---- */

void
cgroup_close(struct cgroup_fds *c)
{
	fd_close(&c->box);
	fd_close(&c->freeze);
	fd_close(&c->kill);
	fd_close(&c->events);
}

static bool
is_populated(int events)
{
	char text[EVENTS_MAX_BYTES];
	const ssize_t n = pread(events, text, sizeof text, 0);
	struct str rest = {text, n < 0 ? 0 : (size_t)n}, line;

	while (str_cut(&rest, '\n', &line))
		if (str_is(line, "populated 1"))
			return true;
	return false;
}

bool
cgroup_is_populated(int node, const char *id)
{
	struct err ignored;
	auto_close int dir = path_open(node, id, O_PATH | O_DIRECTORY, &ignored);
	if (dir < 0)
		return false;
	auto_close int events = path_open(dir, "cgroup.events", O_RDONLY, &ignored);
	return events >= 0 && is_populated(events);
}

static int remove_below(int dir, int depth, struct err *err);

static int
remove_cgroup(int parent, const char *name, int depth, struct err *err)
{
	if (depth > DEPTH_MAX)
		return err_set(err, ERR_INTERNAL, "cgroups nested more than %d deep", DEPTH_MAX);
	auto_close int dir = path_open(parent, name, O_RDONLY | O_DIRECTORY, err);
	if (dir < 0)
		return errno == ENOENT ? 0 : -1;
	if (remove_below(dir, depth, err) < 0)
		return -1;
	if (unlinkat(parent, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
		return err_sys(err, errno, "remove cgroup %s", name);
	return 0;
}

static int
remove_below(int dir, int depth, struct err *err)
{
	const int own = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *list = own < 0 ? NULL : fdopendir(own);
	int result = 0;

	if (!list)
		return err_sys(err, errno, "list a cgroup");
	for (const struct dirent *e; result == 0 && (e = readdir(list)) != NULL;)
		if (e->d_type == DT_DIR && e->d_name[0] != '.')
			result = remove_cgroup(dir, e->d_name, depth + 1, err);
	closedir(list);
	return result;
}

static int
wait_until_empty(int events, uint64_t max_ns, struct err *err)
{
	const uint64_t deadline_ns = time_now_ns() + max_ns;

	while (is_populated(events)) {
		const uint64_t now_ns = time_now_ns();
		if (now_ns >= deadline_ns)
			return err_set(err, ERR_TIMEOUT, "processes have not ended within %llu ms",
				       (unsigned long long)(max_ns / NS_PER_MS));
		struct pollfd p = {.fd = events, .events = POLLPRI};
		const uint64_t left_ms = (deadline_ns - now_ns + NS_PER_MS - 1) / NS_PER_MS;
		if (poll(&p, 1, (int)left_ms) < 0 && errno != EINTR)
			return err_sys(err, errno, "wait for an empty cgroup");
	}
	return 0;
}

int
cgroup_clear(int node, const char *id, struct err *err)
{
	auto_close int dir = path_open(node, id, O_PATH | O_DIRECTORY, err);
	if (dir < 0)
		return errno == ENOENT ? 0 : err_add(err, "clear the cgroup of %s", id);
	auto_close int events = path_open(dir, "cgroup.events", O_RDONLY, err);
	auto_close int kill = path_open(dir, "cgroup.kill", O_WRONLY, err);
	if (events < 0 || kill < 0)
		return err_add(err, "clear the cgroup of %s", id);
	if (is_populated(events) && fd_write_all(kill, "1", 1, err) < 0)
		return err_add(err, "kill the processes of %s", id);
	if (wait_until_empty(events, CLEAR_MAX_NS, err) < 0 || remove_cgroup(node, id, 0, err) < 0)
		return err_add(err, "clear the cgroup of %s", id);
	return 0;
}

static int
give_to_keeper(int box, unsigned uid, unsigned gid, struct err *err)
{
	static const char *const files[] = {"cgroup.procs", "cgroup.threads",
					    "cgroup.subtree_control"};

	if (fchown(box, uid, gid) < 0)
		return err_sys(err, errno, "give box to the keeper");
	for (size_t i = 0; i < sizeof files / sizeof *files; i++)
		if (fchownat(box, files[i], uid, gid, AT_SYMLINK_NOFOLLOW) < 0)
			return err_sys(err, errno, "give %s to the keeper", files[i]);
	/* The group is the session root's: cloning into a call needs this right on what is above.
	 */
	if (fchmodat(box, "cgroup.procs", 0664, 0) < 0)
		return err_sys(err, errno, "open cgroup.procs to berth-init");
	return 0;
}

/* The same directory as the root of a mount that is attached nowhere: init is given what lies in
 * box, and ".." from a directory of the node's own mount would lead to the node's files. */
static int
detach(int box, struct err *err)
{
	auto_close int tree =
	    open_tree(box, "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	if (tree < 0)
		return err_sys(err, errno, "copy the mount of box");
	const int fd = openat(tree, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? err_sys(err, errno, "open box alone") : fd;
}

static int
open_box(int session, unsigned keeper_uid, unsigned session_gid, struct cgroup_fds *out,
	 struct err *err)
{
	out->box = path_open_dir(session, "box", 0755, err);
	if (out->box < 0)
		return -1;
	out->freeze = path_open(out->box, "cgroup.freeze", O_WRONLY, err);
	if (out->freeze < 0)
		return -1;
	out->kill = path_open(out->box, "cgroup.kill", O_WRONLY, err);
	if (out->kill < 0)
		return -1;
	out->events = path_open(out->box, "cgroup.events", O_RDONLY, err);
	if (out->events < 0)
		return -1;
	if (give_to_keeper(out->box, keeper_uid, session_gid, err) < 0)
		return -1;
	const int alone = detach(out->box, err);
	if (alone < 0)
		return -1;
	fd_close(&out->box);
	out->box = alone;
	return 0;
}

/* Removes what an earlier start has left: a frozen or half-made cgroup is not used again. */
static int
remove_left(int node, const char *id, struct err *err)
{
	auto_close int dir = path_open(node, id, O_PATH | O_DIRECTORY, err);
	if (dir < 0)
		return errno == ENOENT ? 0 : -1;
	auto_close int events = path_open(dir, "cgroup.events", O_RDONLY, err);
	if (events < 0)
		return -1;
	if (wait_until_empty(events, LAST_MAX_NS, err) < 0)
		return err_set(err, ERR_AGAIN, "processes of an earlier start still live");
	return remove_cgroup(node, id, 0, err);
}

int
cgroup_make(int node, const char *id, unsigned keeper_uid, unsigned session_gid,
	    struct cgroup_fds *out, struct err *err)
{
	struct cgroup_fds made = {-1, -1, -1, -1};

	if (remove_left(node, id, err) < 0)
		return err_add(err, "the cgroup of %s", id);
	auto_close int session = path_open_dir(node, id, 0755, err);
	if (session < 0)
		return err_add(err, "the cgroup of %s", id);
	if (open_box(session, keeper_uid, session_gid, &made, err) < 0) {
		struct err ignored;
		cgroup_close(&made);
		if (remove_cgroup(node, id, 0, &ignored) < 0)
			return err_add(err, "the cgroup of %s, which stays", id);
		return err_add(err, "the cgroup of %s", id);
	}
	*out = made;
	return 0;
}
