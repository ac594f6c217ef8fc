/* Reads /proc/PID/maps of all that live in a session's cgroup. It is the kernel's text, but for the
 * paths, which the session chooses and nothing here depends upon. */
#include "manager/mapped.h"
#include "base/buf.h"
#include "base/fd.h"
#include "base/path.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* More than that is not read, in the manager's loop: then it may. */
enum {
	MAPS_MAX_BYTES = 1 << 20,
	PROCS_MAX_BYTES = 1 << 14,
	PROCESSES_MAX = 256,
	CGROUPS_MAX = 512
};

struct search {
	unsigned processes, cgroups;
	bool found;
};

/* "from-to rw-s offset dev inode path". What has no inode, or is no file of a workspace (shared anonymous
 * memory is of the kernel's own tmpfs, device 00:01), is no file that is captured. */
static bool
is_written(struct str line)
{
	struct str rest = line, range, mode, offset, device, inode;

	if (!str_cut(&rest, ' ', &range) || !str_cut(&rest, ' ', &mode) ||
	    !str_cut(&rest, ' ', &offset) || !str_cut(&rest, ' ', &device) ||
	    !str_cut(&rest, ' ', &inode))
		return false;
	return mode.len == 4 && mode.at[1] == 'w' && mode.at[3] == 's' && !str_is(inode, "0") &&
	       !str_is(device, "00:01");
}

static void
look_at(struct search *s, struct str pid)
{
	auto_buf text = BUF_MAX(MAPS_MAX_BYTES);
	char path[64];
	struct err ignored;

	snprintf(path, sizeof path, "/proc/%.*s/maps", (int)pid.len, pid.at);
	auto_close int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || ++s->processes > PROCESSES_MAX || fd_read_to_end(fd, &text, &ignored) < 0) {
		s->found = true;
		return;
	}
	struct str rest = buf_view(&text), line;
	while (!s->found && rest.len && str_cut(&rest, '\n', &line))
		s->found = is_written(line);
}

/* One cgroup and those below it. */
static void
search(struct search *s, int parent, const char *name, int depth)
{
	auto_buf procs = BUF_MAX(PROCS_MAX_BYTES);
	struct err ignored;
	auto_close int dir = path_open(parent, name, O_RDONLY | O_DIRECTORY, &ignored);
	auto_close int file = dir < 0 ? -1 : path_open(dir, "cgroup.procs", O_RDONLY, &ignored);

	if (file < 0 || ++s->cgroups > CGROUPS_MAX || fd_read_to_end(file, &procs, &ignored) < 0) {
		s->found = true;
		return;
	}
	struct str rest = buf_view(&procs), pid;
	while (!s->found && rest.len && str_cut(&rest, '\n', &pid))
		if (pid.len)
			look_at(s, pid);
	const int copy = depth < 3 ? openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	DIR *list = copy < 0 ? NULL : fdopendir(copy);
	const struct dirent *e;
	while (list && !s->found && (e = readdir(list)) != NULL)
		if (e->d_type == DT_DIR && e->d_name[0] != '.')
			search(s, dir, e->d_name, depth + 1);
	if (list)
		closedir(list);
}

bool
mapped_may_write(int node, const char *id)
{
	struct search s = {0};

	if (node < 0)
		return true;
	search(&s, node, id, 0);
	return s.found;
}
