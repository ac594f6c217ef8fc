#include "procs.h"
#include "base/fd.h"
#include "base/num.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { STAT_MAX_BYTES = 1024, COMMAND_MAX_BYTES = 160 };

void
procs_done(struct procs *p)
{
	free(p->at);
	*p = (struct procs){0};
}

/* ---- one look ---- */

/* Reads a small file of procfs; its length, or -1: the process is gone. */
static ssize_t
read_of(int proc, pid_t pid, const char *name, char *out, size_t n)
{
	char path[64];

	snprintf(path, sizeof path, "%d/%s", (int)pid, name);
	auto_close int fd = openat(proc, path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -1 : read(fd, out, n);
}

/* proc(5), stat: "pid (name) state ppid pgrp session …"; the name may hold anything, so the last
 * bracket ends it. Field 22 is the start time. */
static bool
parse_stat(const char *text, size_t n, struct proc *out)
{
	const char *end = memrchr(text, ')', n);
	if (!end)
		return false;
	struct str rest = {end + 1, n - (size_t)(end + 1 - text)}, word;
	uint64_t value;
	struct err ignored;

	if (!str_cut(&rest, ' ', &word) || !str_cut(&rest, ' ', &word) || word.len != 1)
		return false;
	out->state = word.at[0];
	for (int field = 4; field <= 22; field++) {
		if (!str_cut(&rest, ' ', &word))
			return false;
		if (field != 4 && field != 6 && field != 22)
			continue;
		if (num_parse(word, 0, field == 22 ? UINT64_MAX : INT32_MAX, &value, &ignored) < 0)
			return false;
		if (field == 4)
			out->parent = (pid_t)value;
		else if (field == 6)
			out->session = (pid_t)value;
		else
			out->started = value;
	}
	return true;
}

static bool
read_proc(int proc, pid_t pid, struct proc *out)
{
	char text[STAT_MAX_BYTES];
	const ssize_t n = read_of(proc, pid, "stat", text, sizeof text);

	*out = (struct proc){.pid = pid};
	return n > 0 && parse_stat(text, (size_t)n, out);
}

bool
procs_is(int proc, const struct proc *p)
{
	struct proc now;
	return read_proc(proc, p->pid, &now) && now.started == p->started;
}

static int
compare(const void *a, const void *b)
{
	const pid_t left = ((const struct proc *)a)->pid, right = ((const struct proc *)b)->pid;
	return left < right ? -1 : left > right;
}

static struct proc *
find(const struct procs *p, pid_t pid)
{
	const struct proc key = {.pid = pid};
	return p->n ? bsearch(&key, p->at, p->n, sizeof key, compare) : NULL;
}

/* Those that a mark reaches: whoever has a marked parent, until nothing changes. */
static void
spread(struct procs *p, pid_t root)
{
	for (bool more = true; more;) {
		more = false;
		for (size_t i = 0; i < p->n; i++) {
			struct proc *one = &p->at[i];
			const struct proc *parent = find(p, one->parent);
			if (one->ours || one->pid == root)
				continue;
			one->ours = one->parent == root || (parent && parent->ours);
			more = more || one->ours;
		}
	}
}

static void
keep_ours(struct procs *p)
{
	size_t n = 0;

	for (size_t i = 0; i < p->n; i++)
		if (p->at[i].ours)
			p->at[n++] = p->at[i];
	p->n = n;
}

static int
add(struct procs *p, size_t *cap, const struct proc *one, struct err *err)
{
	if (p->n == *cap) {
		const size_t more = *cap ? 2 * *cap : 64;
		struct proc *grown = realloc(p->at, more * sizeof *grown);
		if (!grown || more > 2 * PROCS_MAX) {
			free(grown ? grown : p->at);
			*p = (struct procs){0};
			return err_set(err, ERR_UNAVAILABLE, "too many processes to count");
		}
		p->at = grown;
		*cap = more;
	}
	p->at[p->n++] = *one;
	return 0;
}

static void
close_list(DIR **list)
{
	if (*list)
		closedir(*list);
}

int
procs_look(int proc, pid_t root, struct procs *out, struct err *err)
{
	auto_procs all = {0};
	size_t cap = 0;

	auto_close int own = openat(proc, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	__attribute__((cleanup(close_list))) DIR *list = own < 0 ? NULL : fdopendir(own);
	if (!list)
		return err_sys(err, errno, "list the session's processes");
	fd_steal(&own);
	for (const struct dirent *e; (e = readdir(list)) != NULL;) {
		uint64_t pid;
		struct proc one;
		struct err ignored;
		if (num_parse(str_of(e->d_name), 1, INT32_MAX, &pid, &ignored) < 0 ||
		    !read_proc(proc, (pid_t)pid, &one))
			continue;
		if (add(&all, &cap, &one, err) < 0)
			return -1;
	}
	qsort(all.at, all.n, sizeof *all.at, compare);
	spread(&all, root);
	keep_ours(&all);
	*out = all;
	all = (struct procs){0};
	return 0;
}

void
procs_keep_call(struct procs *p, pid_t first)
{
	for (size_t i = 0; i < p->n; i++)
		p->at[i].ours = first > 0 && (p->at[i].pid == first || p->at[i].session == first);
	if (first > 0)
		spread(p, first);
	keep_ours(p);
}

int
procs_list(const struct procs *p, struct err *err)
{
	auto_buf text = BUF_MAX(PROCS_MAX * 12);

	for (size_t i = 0; i < p->n; i++)
		buf_fmt(&text, "%d\n", (int)p->at[i].pid);
	if (buf_bad(&text))
		return err_set(err, ERR_UNAVAILABLE, "too many processes to list");
	return fd_sealed("processes", text.at, text.len, err);
}

void
procs_add_command(int proc, pid_t pid, struct buf *out)
{
	char text[COMMAND_MAX_BYTES];
	ssize_t n = read_of(proc, pid, "cmdline", text, sizeof text);
	const bool named = n <= 0;

	if (named)
		n = read_of(proc, pid, "comm", text, sizeof text);
	buf_text(out, named ? "[" : "");
	while (n > 0 && (text[n - 1] == '\0' || text[n - 1] == '\n'))
		n--;
	for (ssize_t i = 0; i < n; i++)
		buf_char(out, text[i] == '\0'                  ? ' '
			      : text[i] < ' ' || text[i] > '~' ? '?'
							       : text[i]);
	buf_text(out, named ? "]" : "");
}

/* ---- what is kept of a sandbox ---- */

struct call_note {
	struct call_note *next;
	char id[ID_BYTES];
	pid_t first;
	uint64_t started;
};

struct procs_book {
	struct stopper stop;
	struct call_note *calls; /* owned list */
};

static struct procs_book *
book_of(struct sandbox *s)
{
	if (!s->book)
		s->book = xnew(1, sizeof *s->book);
	return s->book;
}

void
procs_free(struct sandbox *s)
{
	if (!s->book)
		return;
	procs_done(&s->book->stop.stopped);
	procs_done(&s->book->stop.last);
	while (s->book->calls) {
		struct call_note *c = s->book->calls;
		s->book->calls = c->next;
		free(c);
	}
	free(s->book);
	s->book = NULL;
}

/* ---- freezing ---- */

static bool
is_dead(const struct proc *p)
{
	return p->state == 'Z' || p->state == 'X' || p->state == 'x';
}

static bool
runs(const struct proc *p)
{
	return !is_dead(p) && p->state != 'T' && p->state != 't';
}

static bool
is_same(const struct procs *a, const struct procs *b)
{
	if (a->n != b->n)
		return false;
	for (size_t i = 0; i < a->n; i++)
		if (a->at[i].pid != b->at[i].pid || a->at[i].started != b->at[i].started)
			return false;
	return true;
}

static size_t
count_running(const struct procs *p)
{
	size_t n = 0;
	for (size_t i = 0; i < p->n; i++)
		n += runs(&p->at[i]);
	return n;
}

static int
note_stopped(struct procs *stopped, const struct procs *now, struct err *err)
{
	size_t cap = stopped->n; /* grows by what is new: exact, since it is rare */

	for (size_t i = 0; i < now->n; i++) {
		const struct proc *had = find(stopped, now->at[i].pid);
		if (had && had->started == now->at[i].started)
			continue;
		if (add(stopped, &cap, &now->at[i], err) < 0)
			return -1;
		qsort(stopped->at, stopped->n, sizeof *stopped->at, compare);
	}
	return 0;
}

/* Stopped between vfork(2) and exec(2), with a parent that waits for it where no signal comes. */
static bool
holds_parent(const struct procs *all, const struct proc *p)
{
	const struct proc *parent = find(all, p->parent);

	return !runs(p) && !is_dead(p) && parent && parent->state == 'D';
}

/* Those of a look for which `is` holds. */
static struct procs
select_procs(const struct procs *all, bool (*is)(const struct procs *all, const struct proc *p))
{
	struct procs chosen = {.at = xnew(all->n + 1, sizeof *all->at), .n = all->n};

	if (all->n)
		memcpy(chosen.at, all->at, all->n * sizeof *all->at);
	for (size_t i = 0; i < chosen.n; i++)
		chosen.at[i].ours = is(all, &all->at[i]);
	keep_ours(&chosen);
	return chosen;
}

static bool
is_running(const struct procs *all, const struct proc *p)
{
	(void)all;
	return runs(p);
}

/* SIGSTOP to all that run, and two looks alike say that nothing does. Who holds up his parent goes
 * on until he has executed; the next look stops both. */
static int
stop_more(struct sandbox *s, struct procs *now, procs_send_fn send, struct err *err)
{
	struct stopper *st = &book_of(s)->stop;

	if (count_running(now) == 0) {
		st->settled = is_same(&st->last, now);
	} else {
		auto_procs running = select_procs(now, is_running);
		auto_procs holding = select_procs(now, holds_parent);
		st->settled = false;
		if (note_stopped(&st->stopped, &running, err) < 0 ||
		    send(s, &running, SIGSTOP, err) < 0 || send(s, &holding, SIGCONT, err) < 0)
			return -1;
	}
	procs_done(&st->last);
	st->last = *now;
	*now = (struct procs){0};
	return 0;
}

static int
go_on(struct sandbox *s, procs_send_fn send, struct err *err)
{
	struct stopper *st = &book_of(s)->stop;
	auto_procs now = {0};

	st->wanted = st->settled = false;
	procs_done(&st->last);
	if (st->stopped.n == 0)
		return 0;
	if (procs_look(s->proc, s->proc_init, &now, err) < 0)
		return -1;
	for (size_t i = 0; i < now.n; i++) {
		const struct proc *had = find(&st->stopped, now.at[i].pid);
		now.at[i].ours = had && had->started == now.at[i].started;
	}
	keep_ours(&now);
	procs_done(&st->stopped);
	return send(s, &now, SIGCONT, err);
}

int
procs_freeze(struct sandbox *s, bool frozen, procs_send_fn send, struct err *err)
{
	struct sandbox_state ignored;

	if (s->proc < 0)
		return err_set(err, ERR_UNAVAILABLE, "no /proc shows the session's processes");
	if (!frozen)
		return go_on(s, send, err);
	book_of(s)->stop.wanted = true;
	return procs_state(s, &ignored, send, err);
}

int
procs_state(struct sandbox *s, struct sandbox_state *out, procs_send_fn send, struct err *err)
{
	struct stopper *st = &book_of(s)->stop;
	auto_procs now = {0};
	unsigned n = 0;

	if (procs_look(s->proc, s->proc_init, &now, err) < 0)
		return -1;
	for (size_t i = 0; i < now.n; i++)
		n += !is_dead(&now.at[i]);
	if (st->wanted && stop_more(s, &now, send, err) < 0)
		return -1;
	*out = (struct sandbox_state){
	    .populated = true, .frozen = st->wanted && st->settled, .processes = n};
	return 0;
}

/* ---- calls ---- */

static struct call_note **
find_call(struct sandbox *s, const char *call)
{
	struct call_note **at = &book_of(s)->calls;

	while (*at && strcmp((*at)->id, call) != 0)
		at = &(*at)->next;
	return at;
}

int
procs_call_started(struct sandbox *s, const char *call, pid_t first, struct err *err)
{
	struct call_note *c = try_new(1, sizeof *c);
	struct proc p;

	if (!c)
		return err_set(err, ERR_UNAVAILABLE, "no memory for a call");
	snprintf(c->id, sizeof c->id, "%s", call);
	c->first = first;
	c->started = read_proc(s->proc, first, &p) ? p.started : 0;
	c->next = book_of(s)->calls;
	book_of(s)->calls = c;
	return 0;
}

/* Its processes that live. */
static int
look_call(struct sandbox *s, const char *call, struct procs *out, struct err *err)
{
	struct call_note *c = *find_call(s, call);

	*out = (struct procs){0};
	if (!c)
		return 0;
	if (procs_look(s->proc, s->proc_init, out, err) < 0)
		return -1;
	const struct proc *first = find(out, c->first);
	if (first && c->started && first->started != c->started)
		c->first = 0; /* it has ended, and its number is another's */
	for (size_t i = 0; i < out->n; i++)
		out->at[i].ours = false;
	procs_keep_call(out, c->first);
	for (size_t i = 0; i < out->n; i++)
		out->at[i].ours = !is_dead(&out->at[i]);
	keep_ours(out);
	return 0;
}

int
procs_call_list(struct sandbox *s, const char *call, struct buf *out, struct err *err)
{
	auto_procs of = {0};

	if (look_call(s, call, &of, err) < 0)
		return -1;
	for (size_t i = 0; i < of.n && !buf_bad(out); i++) {
		buf_fmt(out, "%d ", (int)of.at[i].pid);
		procs_add_command(s->proc, of.at[i].pid, out);
		buf_char(out, '\n');
	}
	return (int)of.n;
}

int
procs_call_procs(struct sandbox *s, const char *call, int *out, struct err *err)
{
	auto_procs of = {0};

	*out = -1;
	if (look_call(s, call, &of, err) < 0)
		return -1;
	*out = procs_list(&of, err);
	return *out < 0 ? -1 : 0;
}

int
procs_call_kill(struct sandbox *s, const char *call, procs_send_fn send, struct err *err)
{
	auto_procs of = {0};

	return look_call(s, call, &of, err) < 0 ? -1 : send(s, &of, SIGKILL, err);
}

int
procs_call_end(struct sandbox *s, const char *call, struct err *err)
{
	struct call_note **at = find_call(s, call), *c = *at;
	auto_procs of = {0};

	if (look_call(s, call, &of, err) < 0)
		return -1;
	if (of.n)
		return 0;
	if (c) {
		*at = c->next;
		free(c);
	}
	return 1;
}
