#include "governor.h"
#include "base/buf.h"
#include "base/fd.h"
#include "base/num.h"
#include "base/path.h"
#include "base/time.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <poll.h>
#include <stdio.h>
#include <sys/vfs.h>
#include <unistd.h>

#define EMPTY_MAX_NS (2 * NS_PER_S)
enum { PERIOD_US = 100000, FILE_MAX_BYTES = 4096 };

static const struct {
	enum limit limit;
	const char *name;   /* of the controller */
	const char *v1[2];  /* where its hierarchy may be */
	const char *probe;  /* a file that its cgroups have in v1 */
	const char *use[2]; /* what is used: in v2, in v1 */
} kinds[GOVERNORS] = {
    [GOVERNOR_MEMORY] = {LIMIT_MEMORY,
			 "memory",
			 {"/sys/fs/cgroup/memory", NULL},
			 "memory.limit_in_bytes",
			 {"memory.current", "memory.usage_in_bytes"}},
    [GOVERNOR_PIDS] = {LIMIT_PIDS,
		       "pids",
		       {"/sys/fs/cgroup/pids", NULL},
		       "pids.max",
		       {"pids.current", "pids.current"}},
    [GOVERNOR_CPU] = {LIMIT_CPU,
		      "cpu",
		      {"/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"},
		      "cpu.cfs_quota_us",
		      {NULL, NULL}},
};

/* ---- the node's directories ---- */

static bool
has_word(int dir, const char *file, const char *word)
{
	auto_buf text = BUF_MAX(FILE_MAX_BYTES);
	struct err ignored;
	struct str rest, one;

	if (path_read(dir, file, &text, &ignored) < 0)
		return false;
	rest = buf_view(&text);
	if (rest.len && rest.at[rest.len - 1] == '\n')
		rest.len--;
	while (rest.len && str_cut(&rest, ' ', &one))
		if (str_is(one, word))
			return true;
	return false;
}

static int
write_file(int dir, const char *name, const char *value, struct err *err)
{
	auto_close int fd = path_open(dir, name, O_WRONLY, err);
	if (fd < 0)
		return -1;
	if (write(fd, value, strlen(value)) < 0)
		return err_sys(err, errno, "write %s to %s", value, name);
	return 0;
}

/* Hands the controller down to the sessions' level. */
static int
open_v2(int v2, const char *controller)
{
	char word[24];
	struct err ignored;

	snprintf(word, sizeof word, "+%s", controller);
	auto_close int above = v2 < 0 ? -1 : openat(v2, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (above < 0 || !has_word(above, "cgroup.controllers", controller))
		return -1;
	if (write_file(above, "cgroup.subtree_control", word, &ignored) < 0 ||
	    write_file(v2, "cgroup.subtree_control", word, &ignored) < 0)
		return -1;
	return fd_dup(v2, &ignored);
}

static int
open_v1(enum governor_kind k, const char *name)
{
	struct statfs fs;
	struct err ignored;

	for (int i = 0; i < 2 && kinds[k].v1[i]; i++) {
		auto_close int top = open(kinds[k].v1[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (top < 0 || fstatfs(top, &fs) < 0 || fs.f_type != CGROUP_SUPER_MAGIC)
			continue;
		auto_close int dir = path_open_dir(top, name, 0755, &ignored);
		if (dir < 0)
			continue;
		if (path_exists(dir, kinds[k].probe))
			return fd_steal(&dir);
		unlinkat(top, name, AT_REMOVEDIR);
	}
	return -1;
}

void
governor_open(struct governor c[GOVERNORS], int v2, const char *name)
{
	for (int k = 0; k < GOVERNORS; k++) {
		c[k] = (struct governor){.dir = open_v2(v2, kinds[k].name)};
		if (c[k].dir >= 0)
			continue;
		c[k].dir = open_v1((enum governor_kind)k, name);
		c[k].v1 = c[k].dir >= 0;
	}
}

void
governor_close(struct governor c[GOVERNORS], const char *name)
{
	for (int k = 0; k < GOVERNORS; k++) {
		auto_close int above = -1;
		if (c[k].v1)
			above = openat(c[k].dir, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (above >= 0) /* stays while a session lives in it */
			unlinkat(above, name, AT_REMOVEDIR);
		fd_close(&c[k].dir);
	}
}

/* ---- one session ---- */

static int
kind_of(enum limit l)
{
	for (int k = 0; k < GOVERNORS; k++)
		if (kinds[k].limit == l)
			return k;
	return -1;
}

static void
number(char out[32], uint64_t value, const char *none)
{
	if (value)
		snprintf(out, 32, "%llu", (unsigned long long)value);
	else
		snprintf(out, 32, "%s", none);
}

/* Memory and swap together may not be less than memory alone, so which goes first depends on the
 * way it goes. */
static int
set_memory_v1(int dir, uint64_t value, struct err *err)
{
	char text[32];
	struct err first;
	const bool swap = path_exists(dir, "memory.memsw.limit_in_bytes");

	number(text, value, "-1");
	if (write_file(dir, "memory.limit_in_bytes", text, &first) < 0) {
		if (!swap) {
			*err = first;
			return -1;
		}
		if (write_file(dir, "memory.memsw.limit_in_bytes", text, err) < 0 ||
		    write_file(dir, "memory.limit_in_bytes", text, err) < 0)
			return -1;
	}
	return swap ? write_file(dir, "memory.memsw.limit_in_bytes", text, err) : 0;
}

static int
set_memory_v2(int dir, uint64_t value, struct err *err)
{
	char text[32];

	number(text, value, "max");
	if (path_exists(dir, "memory.swap.max") && write_file(dir, "memory.swap.max", "0", err) < 0)
		return -1;
	if (path_exists(dir, "memory.oom.group") &&
	    write_file(dir, "memory.oom.group", "0", err) < 0)
		return -1;
	return write_file(dir, "memory.max", text, err);
}

static int
set_cpu(const struct governor *c, int dir, uint64_t value, struct err *err)
{
	char text[64], quota[32];

	number(quota, value * (PERIOD_US / 100), c->v1 ? "-1" : "max");
	if (c->v1)
		return write_file(dir, "cpu.cfs_quota_us", quota, err);
	snprintf(text, sizeof text, "%s %d", quota, PERIOD_US);
	return write_file(dir, "cpu.max", text, err);
}

static int
write_limit(const struct governor *c, enum governor_kind k, int dir, uint64_t value,
	    struct err *err)
{
	char text[32];

	switch (k) {
	case GOVERNOR_MEMORY:
		return c->v1 ? set_memory_v1(dir, value, err) : set_memory_v2(dir, value, err);
	case GOVERNOR_PIDS:
		number(text, value, "max");
		return write_file(dir, "pids.max", text, err);
	case GOVERNOR_CPU:
		return set_cpu(c, dir, value, err);
	case GOVERNORS:
		break;
	}
	return err_set(err, ERR_INTERNAL, "no such controller");
}

void
governor_fds_close(struct governor_fds *f)
{
	for (int k = 0; k < GOVERNORS; k++)
		fd_close(&f->join[k]);
	fd_close(&f->memory_events);
	fd_close(&f->pids_events);
}

static int
make_one(const struct governor *c, enum governor_kind k, const char *id, uint64_t value,
	 struct governor_fds *out, struct err *err)
{
	auto_close int dir = path_open_dir(c->dir, id, 0755, err);
	if (dir < 0 || write_limit(c, k, dir, value, err) < 0)
		return err_add(err, "its %s controller", kinds[k].name);
	if (c->v1 && (out->join[k] = path_open(dir, "cgroup.procs", O_WRONLY, err)) < 0)
		return -1;
	if (k == GOVERNOR_MEMORY)
		out->memory_events =
		    path_open(dir, c->v1 ? "memory.oom_control" : "memory.events", O_RDONLY, err);
	if (k == GOVERNOR_PIDS)
		out->pids_events = path_open(dir, "pids.events", O_RDONLY, err);
	if ((k == GOVERNOR_MEMORY && out->memory_events < 0) ||
	    (k == GOVERNOR_PIDS && out->pids_events < 0))
		return -1;
	return 0;
}

int
governor_make(const struct governor c[GOVERNORS], const char *id, const struct limits *limits,
	      struct governor_fds *out, struct err *err)
{
	struct governor_fds made = {{-1, -1, -1}, -1, -1};

	for (int k = 0; k < GOVERNORS; k++) {
		if (c[k].dir < 0)
			continue;
		if (make_one(&c[k], (enum governor_kind)k, id, limits->at[kinds[k].limit], &made,
			     err) < 0) {
			governor_fds_close(&made);
			return -1; /* its directories go with governor_clear */
		}
	}
	*out = made;
	return 0;
}

int
governor_set(const struct governor c[GOVERNORS], const char *id, enum limit l, uint64_t value,
	     struct err *err)
{
	const int k = kind_of(l);

	if (k < 0 || c[k].dir < 0)
		return 0;
	auto_close int dir = path_open(c[k].dir, id, O_RDONLY | O_DIRECTORY, err);
	if (dir < 0)
		return errno == ENOENT ? 0 : -1;
	return write_limit(&c[k], (enum governor_kind)k, dir, value, err);
}

static int
read_number(int dir, const char *name, uint64_t *out)
{
	auto_buf text = BUF_MAX(FILE_MAX_BYTES);
	struct err ignored;
	struct str rest, word;

	if (path_read(dir, name, &text, &ignored) < 0)
		return -1;
	rest = buf_view(&text);
	str_cut(&rest, '\n', &word);
	rest = word;
	str_cut(&rest, ' ', &word);
	if (str_is(word, "max") || str_is(word, "-1")) {
		*out = 0;
		return 0;
	}
	return num_parse(word, 0, UINT64_MAX, out, &ignored);
}

int
governor_read(const struct governor c[GOVERNORS], const char *id, enum limit l, uint64_t *out_value,
	      uint64_t *out_used)
{
	static const char *const files[GOVERNORS][2] = {
	    {"memory.max", "memory.limit_in_bytes"},
	    {"pids.max", "pids.max"},
	    {"cpu.max", "cpu.cfs_quota_us"},
	};
	const int k = kind_of(l);
	struct err ignored;

	if (k < 0 || c[k].dir < 0)
		return -1;
	auto_close int dir = path_open(c[k].dir, id, O_RDONLY | O_DIRECTORY, &ignored);
	if (dir < 0 || read_number(dir, files[k][c[k].v1], out_value) < 0)
		return -1;
	if (k == GOVERNOR_CPU)
		*out_value /= PERIOD_US / 100;
	if (k == GOVERNOR_MEMORY && *out_value > INT64_MAX / 2)
		*out_value = 0; /* how v1 writes that there is none */
	if (!kinds[k].use[0] || read_number(dir, kinds[k].use[c[k].v1], out_used) < 0)
		*out_used = UINT64_MAX;
	return 0;
}

const char *
governor_means(const struct governor c[GOVERNORS], enum limit l)
{
	const int k = kind_of(l);

	if (k < 0 || c[k].dir < 0)
		return NULL;
	return c[k].v1 ? "cgroup v1" : "cgroup v2";
}

/* v1 has no event for the end of the last process, and counts it for a moment longer than v2 does:
 * looked at again and again, for a bounded time. */
static int
remove_v1(int dir, const char *id, struct err *err)
{
	const uint64_t until = time_now_ns() + EMPTY_MAX_NS;

	while (unlinkat(dir, id, AT_REMOVEDIR) < 0) {
		if (errno == ENOENT)
			return 0;
		if (errno != EBUSY || time_now_ns() > until)
			return err_sys(err, errno, "remove the cgroup %s", id);
		poll(NULL, 0, 2);
	}
	return 0;
}

int
governor_clear(const struct governor c[GOVERNORS], const char *id, struct err *err)
{
	int result = 0;

	for (int k = 0; k < GOVERNORS; k++)
		if (c[k].v1 && remove_v1(c[k].dir, id, err) < 0)
			result = err_add(err, "the %s controller", kinds[k].name);
	return result;
}
