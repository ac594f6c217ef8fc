#include "pool.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/path.h"
#include "base/time.h"
#include "manager/spawn.h"
#include "manager/volume.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/pidfd.h>
#include <unistd.h>

enum { POOL_VOLUMES = 4, NAME_BYTES = 32 };
#define FORMAT_MAX_NS (30 * NS_PER_S)

struct pool {
	struct loop *loop;
	int dir;           /* owned: STATE/pool */
	unsigned first, n; /* ready: "first" to "first + n - 1" */
	struct watch ended;
	struct timer deadline;
	int pidfd; /* owned: of the mkfs.ext4 under way, -1 */
};

static void fill(struct pool *p);

static void
name_of(unsigned number, char out[NAME_BYTES])
{
	snprintf(out, NAME_BYTES, "%u", number);
}

static void
on_overdue(void *ctx)
{
	const struct pool *p = ctx;
	pidfd_send_signal(p->pidfd, SIGKILL, NULL, 0); /* its end is an event */
}

/* One that failed is tried again at the next pool_take, which tells its words. */
static void
on_ended(void *ctx, uint32_t events)
{
	struct pool *p = ctx;
	char name[NAME_BYTES];

	(void)events;
	watch_remove(&p->ended);
	timer_cancel(&p->deadline);
	fd_close(&p->pidfd);
	name_of(p->first + p->n, name);
	if (volume_is_whole(p->dir, name)) {
		p->n++;
		fill(p);
		return;
	}
	log_line("a disk image for later could not be formatted");
	unlinkat(p->dir, name, 0);
}

static int
begin(struct pool *p, struct err *err)
{
	char name[NAME_BYTES], path[64];

	name_of(p->first + p->n, name);
	auto_close int file = volume_create(p->dir, name, 1, err);
	if (file < 0)
		return -1;
	snprintf(path, sizeof path, "/proc/%d/fd/%d/%s", (int)getpid(), p->dir, name);
	if (spawn_tool(volume_mkfs(path), &p->pidfd, err) < 0)
		return -1;
	timer_set(p->loop, &p->deadline, time_now_ns() + FORMAT_MAX_NS, on_overdue, p);
	return watch_add(p->loop, &p->ended, p->pidfd, EPOLLIN, on_ended, p, err);
}

static void
fill(struct pool *p)
{
	struct err err;

	if (p->pidfd < 0 && p->n < POOL_VOLUMES && begin(p, &err) < 0)
		log_err(&err, "a disk image for later");
}

int
pool_open(struct loop *loop, int state, struct pool **out, struct err *err)
{
	if (path_remove_tree(state, "pool", err) < 0)
		return -1;
	const int dir = path_open_dir(state, "pool", 0700, err);
	if (dir < 0)
		return -1;
	*out = xnew(1, sizeof **out);
	**out = (struct pool){.loop = loop, .dir = dir, .pidfd = -1};
	return 0;
}

void
pool_close(struct pool *p)
{
	if (!p)
		return;
	if (p->pidfd >= 0)
		pidfd_send_signal(p->pidfd, SIGKILL, NULL, 0);
	watch_remove(&p->ended);
	timer_cancel(&p->deadline);
	fd_close(&p->pidfd);
	fd_close(&p->dir);
	free(p);
}

int
pool_take(struct pool *p, uint64_t bytes, int dir, struct err *err)
{
	char name[NAME_BYTES];

	const bool fits = bytes <= VOLUME_BYTES - VOLUME_BYTES / 16;
	if (!fits || p->n == 0) {
		if (volume_make(dir, VOLUME_NAME, bytes, err) < 0)
			return -1;
	} else {
		name_of(p->first, name);
		if (renameat(p->dir, name, dir, VOLUME_NAME) < 0)
			return err_sys(err, errno, "take a disk image");
		p->first++;
		p->n--;
	}
	fill(p);
	return 0;
}
