/* How long journals are kept: each for journal_keep after its last byte, all of a session within
 * journal_session_max, the oldest go first.
 *
 *  1. never that of a call that lives, or has left something that does; who reads one that goes has it
 *     open, and reads on;
 *  2. keys go first, durably (once.h, invariant 2): a key without its journal is a crash's;
 *  3. one look when the keeper has started, then one an hour: it reads the directory alone. */
#include "keeper.h"

#include "base/fd.h"
#include "base/log.h"
#include "base/time.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define LOOK_FIRST_NS (1 * NS_PER_S) /* the session's first call goes before */
#define LOOK_EACH_NS  (3600 * NS_PER_S)

struct kept {
	char call[ID_BYTES];
	uint64_t bytes, last_ns;
};

struct kept_list {
	struct kept *at; /* owned */
	size_t n, room;
	uint64_t bytes; /* of all journals, those that stay whatever happens too */
};

static bool
lives(const struct keeper *k, const char *call)
{
	if (k->ahead.file >= 0 && strcmp(k->ahead.call, call) == 0)
		return true;
	for (const struct call *c = k->calls; c; c = c->next)
		if (strcmp(c->id, call) == 0)
			return true;
	for (const struct call *c = k->late; c; c = c->next)
		if (strcmp(c->id, call) == 0)
			return true;
	return false;
}

static int
add(struct kept_list *l, const char *call, const struct stat *st, struct err *err)
{
	if (l->n == l->room) {
		const size_t room = l->room ? 2 * l->room : 64;
		struct kept *at = reallocarray(l->at, room, sizeof *at);
		if (!at)
			return err_set(err, ERR_UNAVAILABLE, "no memory for a list of journals");
		l->at = at;
		l->room = room;
	}
	struct kept *one = &l->at[l->n++];
	*one = (struct kept){.bytes = (uint64_t)st->st_blocks * 512,
			     .last_ns = (uint64_t)st->st_mtim.tv_sec * NS_PER_S +
					(uint64_t)st->st_mtim.tv_nsec};
	memcpy(one->call, call, strlen(call) + 1);
	return 0;
}

/* One name of calls/; what is no journal is passed over. */
static int
look_at(const struct keeper *k, const char *name, struct kept_list *l, struct err *err)
{
	char call[ID_BYTES];
	struct stat st;
	const size_t n = strlen(name);

	if (n < 3 || n - 2 >= sizeof call || strcmp(name + n - 2, ".j") != 0)
		return 0;
	memcpy(call, name, n - 2);
	call[n - 2] = '\0';
	if (fstatat(k->fds[KEEPER_CALLS], name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode))
		return 0;
	l->bytes += (uint64_t)st.st_blocks * 512;
	return lives(k, call) ? 0 : add(l, call, &st, err);
}

static int
list_journals(const struct keeper *k, struct kept_list *l, struct err *err)
{
	const int fd = openat(k->fds[KEEPER_CALLS], ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *e;
	int result = 0;

	if (!dir)
		return err_sys(err, errno, "read calls/"); /* fdopendir fails for want of memory alone */
	while (result == 0 && (e = readdir(dir)))
		result = look_at(k, e->d_name, l, err);
	closedir(dir);
	return result;
}

static int
by_age(const void *a, const void *b)
{
	const struct kept *x = a, *y = b;
	return (x->last_ns > y->last_ns) - (x->last_ns < y->last_ns);
}

static int
by_call(const void *a, const void *b)
{
	const struct kept *x = a, *y = b;
	return strcmp(x->call, y->call);
}

/* Those that go come first, by id: how many. */
static size_t
choose(const struct keeper *k, struct kept_list *l)
{
	const uint64_t now = time_real_ns(), keep = k->journal_keep_ns, most = k->journals_bytes_max;
	uint64_t bytes = l->bytes;
	size_t n = 0;

	qsort(l->at, l->n, sizeof *l->at, by_age);
	while (n < l->n && ((keep && now > l->at[n].last_ns && now - l->at[n].last_ns > keep) ||
			    (most && bytes > most)))
		bytes -= l->at[n++].bytes;
	qsort(l->at, n, sizeof *l->at, by_call);
	return n;
}

static bool
goes(void *ctx, const char *call)
{
	const struct kept_list *l = ctx;
	struct kept key = {0};

	memcpy(key.call, call, strnlen(call, sizeof key.call - 1));
	return bsearch(&key, l->at, l->n, sizeof *l->at, by_call) != NULL;
}

static int
look(struct keeper *k, struct kept_list *l, struct err *err)
{
	if (list_journals(k, l, err) < 0)
		return -1;
	l->n = l->n ? choose(k, l) : 0;
	if (l->n == 0)
		return 0;
	if (once_drop(&k->once, goes, l, err) < 0)
		return -1;
	for (size_t i = 0; i < l->n; i++)
		journal_remove(k->fds[KEEPER_CALLS], l->at[i].call);
	log_line("%zu journals were kept long enough, and are removed", l->n);
	return 0;
}

static void
on_look(void *ctx)
{
	struct keeper *k = ctx;
	struct kept_list l = {0};
	struct err err;

	if (look(k, &l, &err) < 0)
		log_err(&err, "remove old journals");
	free(l.at);
	timer_set(&k->loop, &k->retain, time_now_ns() + LOOK_EACH_NS, on_look, k);
}

void
retain_take(struct keeper *k, const struct msg_retention *m)
{
	k->journal_keep_ns = m->journal_keep_ns;
	k->journals_bytes_max = m->journals_bytes_max;
	timer_set(&k->loop, &k->retain, time_now_ns() + LOOK_FIRST_NS, on_look, k);
}
