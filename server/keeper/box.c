/* Freeze, kill, count and list by cgroup v2: no pid that a session names is ever signalled.
 *
 * Invariants
 *  1. a call's directory is box/<call id>, one level, made and removed here alone;
 *  2. its cgroup.procs is writable for the session's root by group, so that berth-init can clone
 *     into it, and nothing else below box is;
 *  3. what is read of a process (its command line) is text of the session's: bounded, and without a
 *     byte that a terminal would obey. */
#include "box.h"
#include "procs.h"
#include "base/fd.h"
#include "base/num.h"
#include "base/path.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { EVENTS_MAX_BYTES = 4096, PROCS_MAX_BYTES = 1 << 20 };

static int
write_switch(int fd, const char *value, const char *what, struct err *err)
{
	ssize_t n;
	do
		n = pwrite(fd, value, strlen(value), 0);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return err_sys(err, errno, "%s", what);
	return 0;
}

int
box_freeze(struct sandbox *s, bool frozen, struct err *err)
{
	if (s->freeze_fd < 0)
		return err_set(err, ERR_UNAVAILABLE, "no cgroup of this session can be frozen");
	return write_switch(s->freeze_fd, frozen ? "1" : "0", "write cgroup.freeze", err);
}

int
box_kill(struct sandbox *s, struct err *err)
{
	return write_switch(s->kill_fd, "1", "write cgroup.kill", err);
}

/* ---- processes ---- */

/* Reads a list of pids, one a line. The kernel makes it whole when it is opened. */
static int
read_procs(int cgroup, struct buf *out, struct err *err)
{
	auto_close int fd = openat(cgroup, "cgroup.procs", O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		const int why = errno;
		err_sys(err, why, "open cgroup.procs");
		errno = why;
		return -1;
	}
	if (fd_read_to_end(fd, out, err) < 0) {
		const int why = errno; /* ENODEV: removed since it was opened */
		err_add(err, "read cgroup.procs");
		errno = why;
		return -1;
	}
	return 0;
}

static unsigned
count_lines(struct str text)
{
	unsigned n = 0;
	for (size_t i = 0; i < text.len; i++)
		n += text.at[i] == '\n';
	return n;
}

static int
count_procs(int cgroup, unsigned *out, struct err *err)
{
	auto_buf procs = BUF_MAX(PROCS_MAX_BYTES);
	if (read_procs(cgroup, &procs, err) < 0)
		return -1;
	*out += count_lines(buf_view(&procs));
	return 0;
}

static void
close_list(DIR **list)
{
	if (*list)
		closedir(*list);
}

/* All of box: pid 1's own level, and one below it for the calls (invariant 1). */
static int
count_all(int box, unsigned *out, struct err *err)
{
	if (count_procs(box, out, err) < 0)
		return -1;
	auto_close int own = openat(box, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	__attribute__((cleanup(close_list))) DIR *list = own < 0 ? NULL : fdopendir(own);
	if (!list)
		return err_sys(err, errno, "list the calls' cgroups");
	fd_steal(&own); /* the list's now */
	for (const struct dirent *e; (e = readdir(list)) != NULL;) {
		if (e->d_type != DT_DIR || e->d_name[0] == '.')
			continue;
		auto_close int call = openat(box, e->d_name, O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (call < 0 && errno == ENOENT)
			continue; /* ended meanwhile */
		if (call < 0)
			return err_sys(err, errno, "open the cgroup of %s", e->d_name);
		if (count_procs(call, out, err) < 0 && errno != ENOENT && errno != ENODEV)
			return err_add(err, "count the processes of %s", e->d_name);
	}
	return 0;
}

/* "key value" lines: the value is one digit in all that we ask for. */
static bool
event_is_set(struct str text, const char *key)
{
	struct str line;
	while (str_cut(&text, '\n', &line)) {
		struct str name;
		if (str_cut(&line, ' ', &name) && str_is(name, key))
			return str_is(line, "1");
	}
	return false;
}

int
box_state(struct sandbox *s, struct sandbox_state *out, struct err *err)
{
	char text[EVENTS_MAX_BYTES];
	const ssize_t n = pread(s->events_fd, text, sizeof text, 0);
	struct sandbox_state now = {0};

	if (n < 0 && errno == ENODEV) { /* the manager has removed it: nobody was in it */
		*out = now;
		return 0;
	}
	if (n < 0)
		return err_sys(err, errno, "read cgroup.events");
	const struct str events = {text, (size_t)n};
	now.populated = event_is_set(events, "populated");
	now.frozen = event_is_set(events, "frozen");
	if (now.populated) {
		if (count_all(s->cgroup, &now.processes, err) < 0)
			return -1;
		if (now.processes > 0)
			now.processes--; /* pid 1 */
	}
	*out = now;
	return 0;
}

/* ---- calls ---- */

/* Call ids are ours, but a name that could leave box, or name one of the kernel's files, is a
 * mistake to be found here. */
static int
check_call(const char *call, struct err *err)
{
	const size_t n = strlen(call);
	if (n == 0 || n >= ID_BYTES)
		return err_set(err, ERR_INTERNAL, "a call id of %zu bytes", n);
	for (size_t i = 0; i < n; i++) {
		const char c = call[i];
		if (!(c == '_' || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9')))
			return err_set(err, ERR_INTERNAL, "a call id with the byte %d", c);
	}
	return 0;
}

/* 1 and *out, 0 when there is no such call (any more), -1. */
static int
open_call(struct sandbox *s, const char *call, int *out, struct err *err)
{
	if (check_call(call, err) < 0)
		return -1;
	const int fd = path_open(s->cgroup, call, O_PATH | O_DIRECTORY, err);
	if (fd < 0)
		return errno == ENOENT ? 0 : -1;
	*out = fd;
	return 1;
}

int
box_call_begin(struct sandbox *s, const char *call, int *out, struct err *err)
{
	if (check_call(call, err) < 0)
		return -1;
	if (mkdirat(s->cgroup, call, 0755) < 0)
		return err_sys(err, errno, "make the cgroup of call %s", call);
	auto_close int dir = path_open(s->cgroup, call, O_PATH | O_DIRECTORY, err);
	int result = dir < 0 ? -1 : 0;
	/* Ours by uid, the session root's by group: the right to be cloned into it (invariant 2).
	 */
	if (result == 0 && (fchmodat(s->cgroup, call, 0755, 0) < 0 || /* whatever our umask is */
			    fchmodat(dir, "cgroup.procs", 0664, 0) < 0))
		result = err_sys(err, errno, "open the cgroup of call %s to berth-init", call);
	if (result < 0) {
		unlinkat(s->cgroup, call, AT_REMOVEDIR);
		return -1;
	}
	*out = fd_steal(&dir);
	return 0;
}

int
box_call_list(struct sandbox *s, const char *call, struct buf *out, struct err *err)
{
	auto_buf procs = BUF_MAX(PROCS_MAX_BYTES);
	auto_close int dir = -1;
	const int found = open_call(s, call, &dir, err);
	if (found <= 0)
		return found;
	if (read_procs(dir, &procs, err) < 0)
		return errno == ENODEV ? 0 : -1;
	auto_close int proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct str rest = buf_view(&procs), pid;
	int n = 0;
	while (str_cut(&rest, '\n', &pid)) {
		uint64_t number;
		struct err ignored;
		if (num_parse(pid, 1, INT32_MAX, &number, &ignored) < 0)
			continue; /* 0: a process that this pid namespace does not show */
		n++;
		if (buf_bad(out))
			continue;
		buf_fmt(out, "%llu ", (unsigned long long)number);
		procs_add_command(proc, (pid_t)number, out);
		buf_char(out, '\n');
	}
	return n;
}

int
box_call_procs(struct sandbox *s, const char *call, int *out, struct err *err)
{
	auto_close int dir = -1;
	const int found = open_call(s, call, &dir, err);
	*out = -1;
	if (found <= 0)
		return found;
	*out = path_open(dir, "cgroup.procs", O_RDONLY, err);
	return *out < 0 ? -1 : 0;
}

int
box_call_kill(struct sandbox *s, const char *call, struct err *err)
{
	auto_close int dir = -1;
	const int found = open_call(s, call, &dir, err);
	if (found <= 0)
		return found;
	auto_close int fd = path_open(dir, "cgroup.kill", O_WRONLY, err);
	if (fd < 0)
		return err_add(err, "kill call %s", call);
	return write_switch(fd, "1", "write cgroup.kill of a call", err);
}

/* cpu.stat is there in each v2 cgroup, whatever controllers are. */
int
box_call_cpu(struct sandbox *s, const char *call, uint64_t *out_ns, struct err *err)
{
	char text[EVENTS_MAX_BYTES];
	auto_close int dir = -1;
	const int found = open_call(s, call, &dir, err);
	if (found <= 0)
		return found < 0 ? -1 : err_set(err, ERR_ABSENT, "no cgroup of call %s", call);
	auto_close int fd = path_open(dir, "cpu.stat", O_RDONLY, err);
	const ssize_t n = fd < 0 ? -1 : pread(fd, text, sizeof text, 0);
	if (n < 0)
		return fd < 0 ? -1 : err_sys(err, errno, "read cpu.stat");
	struct str rest = {text, (size_t)n}, line, name;
	uint64_t usec;
	while (str_cut(&rest, '\n', &line)) {
		if (!str_cut(&line, ' ', &name) || !str_is(name, "usage_usec"))
			continue;
		if (num_parse(line, 0, UINT64_MAX / 1000, &usec, err) < 0)
			return -1;
		*out_ns = usec * 1000;
		return 1;
	}
	return err_set(err, ERR_UNAVAILABLE, "cpu.stat has no usage_usec");
}

int
box_call_end(struct sandbox *s, const char *call, struct err *err)
{
	if (check_call(call, err) < 0)
		return -1;
	if (unlinkat(s->cgroup, call, AT_REMOVEDIR) == 0 || errno == ENOENT)
		return 1;
	if (errno == EBUSY)
		return 0;
	return err_sys(err, errno, "remove the cgroup of call %s", call);
}
