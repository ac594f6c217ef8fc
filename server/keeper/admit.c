/* May a call start, and with what: limits, its streams, its journal, its place, its environment.
 *
 *  1. all that a call needs is taken here, or the call is refused with a reason: a running call
 *     never dies for want of something;
 *  2. conn says what to run, never for whom: that is the grant's;
 *  3. a command with a key is begun when the key is durable, and never again (once.h). While it
 *     waits for its shell the key is its call's alone, and free when that ends. */
#include "keeper.h"

#include "base/fd.h"
#include "base/log.h"
#include "base/time.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	ARGV_MAX_BYTES = 163840, /* as in the row of init_exec */
	ENV_MAX_BYTES = 131072,
	LATE_MAX = 4096, /* calls that left something running */
	/* The kernel lets one user have 64 MiB of pipe buffers before it hands out tiny ones: large
	 * ones for few calls, the default for the rest. */
	LARGE_PIPES_CALLS = 16,
	PIPE_BYTES = 1 << 20,
};

enum call_kind { KIND_EXEC, KIND_SHELL, KIND_SUBSYSTEM };

/* The ends that go to the child and to conn: closed when the call has been handed over. */
struct ends {
	int in, out, err; /* owned: the child's */
	int feed;         /* owned: conn's end of stdin */
	int direct;       /* owned: conn's end of stdout, of a subsystem */
	int journal;      /* owned: conn's reader */
	int place;        /* owned: the engine's */
	int file;         /* owned: of the journal, if it was made ahead */
};

static void
ends_done(struct ends *e)
{
	fd_close(&e->in);
	fd_close(&e->out);
	fd_close(&e->err);
	fd_close(&e->feed);
	fd_close(&e->direct);
	fd_close(&e->journal);
	fd_close(&e->place);
	fd_close(&e->file);
}

/* ---- may it ---- */

static int
check(const struct grant *g, const struct msg_call_start *m, struct call_options *options,
      struct err *err)
{
	struct keeper *k = g->keeper;

	if (m->kind > KIND_SUBSYSTEM)
		return err_set(err, ERR_USAGE, "no such kind of call");
	if (k->read_only && m->kind != KIND_SUBSYSTEM)
		return err_set(err, ERR_DENIED,
			       "a snapshot is only read: sftp and scp serve it, and nothing else");
	if (m->pty && !(g->allow.flags & ALLOW_PTY))
		return err_set(err, ERR_DENIED, "its key allows no terminal");
	if (k->ended || k->pause.state == PAUSE_KILLING || !wire_is_open(&k->init))
		return err_set(err, ERR_AGAIN, "the session has ended");
	if (k->suspended) {
		err_set(err, ERR_NO_SPACE, "%s", k->suspend_why);
		return err_hint(err, "%s", k->suspend_hint);
	}
	if (k->held)
		return err_set(err, ERR_AGAIN, "the session is pausing");
	if (options_parse(m->env, options, err) < 0 ||
	    (m->kind == KIND_SUBSYSTEM && sftp_check(k, m, options, err) < 0))
		return -1;
	if (options->max_output && !k->engine->shows_spill)
		return err_set(err, ERR_UNAVAILABLE,
			       "BERTH_MAX_OUTPUT: a session of this isolation has no /run/berth/out");
	if (options->max_output && m->pty)
		return err_set(err, ERR_USAGE, "BERTH_MAX_OUTPUT: not for a terminal");
	if (options->shell[0] && m->kind != KIND_EXEC) {
		err_set(err, ERR_USAGE, "BERTH_SHELL: not without a command");
		return err_hint(err, "one shell's calls run one after the other");
	}
	if (join_has(k, g, m->channel))
		return err_set(err, ERR_USAGE, "channel %u has a call already", m->channel);
	return 0;
}

/* Of one that is to be begun. */
static int
check_room(struct keeper *k, struct err *err)
{
	if (k->n_calls >= k->calls_max) {
		err_set(err, ERR_UNAVAILABLE, "%u calls run already", k->n_calls);
		return err_hint(err, "wait until one has ended");
	}
	if (k->n_late >= LATE_MAX) {
		err_set(err, ERR_UNAVAILABLE, "%u ended calls left processes running", k->n_late);
		return err_hint(err, "end some of them, or pause the session");
	}
	if (!record_has_room(&k->spool))
		return err_set(err, ERR_UNAVAILABLE, "too many call records wait for the manager");
	return record_reserve(&k->spool, k->n_calls, err);
}

/* ---- what it runs with ---- */

static void
add_string(struct buf *b, struct str s)
{
	buf_str(b, s);
	buf_char(b, '\0');
}

/* What an interactive login runs: SHELL of the session's environment, as sshd takes it from passwd. */
static struct str
login_shell(const struct keeper *k)
{
	struct str rest = buf_view(&k->env), one;

	while (rest.len && str_cut(&rest, '\0', &one))
		if (str_starts(one, "SHELL=") && one.len > 6)
			return (struct str){one.at + 6, one.len - 6};
	return str_of(k->shell);
}

/* The command as records and journals tell it. */
static struct str
command_text(const struct keeper *k, const struct msg_call_start *m)
{
	return m->kind == KIND_SHELL ? login_shell(k) : m->command;
}

static int
fill_argv(const struct call *c, const struct msg_call_start *m, struct buf *out, struct err *err)
{
	const struct keeper *k = c->keeper;

	if (c->shell[0])
		return shell_fill_argv(c, m->command, out, err);
	if (c->sftp)
		return sftp_fill_argv(k, out, err);
	if (m->kind == KIND_SHELL) {
		add_string(out, login_shell(k));
		add_string(out, STR_LIT("-l"));
	} else {
		add_string(out, str_of(k->shell));
		add_string(out, STR_LIT("-c"));
		add_string(out, m->command);
	}
	return buf_bad(out) ? err_set(err, ERR_USAGE, "the command is too long") : 0;
}

static struct str
name_of(struct str variable)
{
	struct str name;
	return str_cut(&variable, '=', &name) ? name : variable;
}

/* A later one of the same name wins. */
static bool
is_set_later(const struct str *vars, size_t n, size_t from, struct str name)
{
	for (size_t i = from; i < n; i++)
		if (str_equal(name_of(vars[i]), name))
			return true;
	return false;
}

static bool
is_taken(const struct msg_call_start *m, struct str variable)
{
	return m->kind != KIND_SUBSYSTEM || sftp_takes_variable(variable);
}

static int
fill_env(const struct keeper *k, const struct msg_call_start *m, struct buf *out, struct err *err)
{
	char term[70] = "TERM=";
	struct str vars[CALL_ENV_MAX + 1], rest = m->env, one;
	size_t n = 0;

	while (rest.len && str_cut(&rest, '\0', &one)) {
		if (n == CALL_ENV_MAX)
			return err_set(err, ERR_USAGE, "more than %d environment variables",
				       CALL_ENV_MAX);
		if (request_is_variable(one))
			vars[n++] = one;
	}
	if (m->pty && m->term.len && str_copy(m->term, term + 5, sizeof term - 5, err) == 0)
		vars[n++] = str_of(term);
	rest = buf_view(&k->env);
	while (rest.len && str_cut(&rest, '\0', &one))
		if (one.len && is_taken(m, one) && !is_set_later(vars, n, 0, name_of(one)))
			add_string(out, one);
	for (size_t i = 0; i < n; i++)
		if (!is_set_later(vars, n, i + 1, name_of(vars[i])))
			add_string(out, vars[i]);
	return buf_bad(out) ? err_set(err, ERR_USAGE, "the environment is too large") : 0;
}

/* ---- its streams ---- */

/* A pipe: its read end to *reader, its write end to *writer. */
static int
make_pipe(int *reader, int *writer, bool large, struct err *err)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC) < 0)
		return err_sys(err, errno, "make a pipe");
	/* Its inode is ours: without this nobody inside could open /dev/stdout or /dev/stderr
	 * again. */
	if (fchmod(ends[0], 0666) < 0) {
		const int why = errno;
		close(ends[0]);
		close(ends[1]);
		return err_sys(err, why, "open a pipe to all");
	}
	if (large) /* a wish: where the user has had his share, the default does */
		(void)!fcntl(ends[1], F_SETPIPE_SZ, PIPE_BYTES);
	*reader = ends[0];
	*writer = ends[1];
	return 0;
}

static int
open_streams(struct call *c, struct ends *e, struct err *err)
{
	const bool large = c->keeper->n_calls < LARGE_PIPES_CALLS;

	if (make_pipe(&e->in, &e->feed, large, err) < 0 || fd_set_nonblock(e->feed, err) < 0)
		return -1;
	if (options_has_input(&c->options) && !c->sftp) { /* nobody speaks into a protocol */
		c->feed = fd_dup(e->feed, err);
		if (c->feed < 0)
			return -1;
	}
	if (c->pty) {
		c->input = fd_steal(&e->in); /* its other end is init's to make */
		return fd_set_nonblock(c->input, err);
	}
	int *const out = c->sftp ? &e->direct : &c->out.fd;
	if (make_pipe(out, &e->out, large, err) < 0 ||
	    make_pipe(&c->err.fd, &e->err, false, err) < 0 || fd_set_nonblock(*out, err) < 0)
		return -1;
	return fd_set_nonblock(c->err.fd, err);
}

static struct call *
new_call(struct grant *g, const struct msg_call_start *m, const struct call_options *options)
{
	struct keeper *k = g->keeper;
	struct call *c = try_new(1, sizeof *c);
	char *command = try_new(1, CALL_COMMAND_BYTES + 1);

	if (!c || !command) {
		free(c);
		free(command);
		return NULL;
	}
	c->keeper = k;
	c->owner = g;
	c->channel = m->channel;
	c->pty = m->pty != 0;
	c->journal.fd = c->out.fd = c->err.fd = c->input = c->feed = -1;
	c->terminal.master = c->terminal.input = -1;
	c->spill.fd[0] = c->spill.fd[1] = -1;
	c->out.call = c->err.call = c;
	c->out.as = JOURNAL_OUT;
	c->err.as = JOURNAL_ERR;
	c->command = command;
	c->options = *options;
	shell_key(options, g, c->shell);
	const struct str text = command_text(k, m);
	const size_t n = text.len < CALL_COMMAND_BYTES ? text.len : CALL_COMMAND_BYTES;
	if (n)
		memcpy(command, text.at, n);
	memcpy(c->principal, g->principal, sizeof c->principal);
	do
		c->number = ++k->next_number;
	while (c->number == 0); /* 0 means all calls; 2^32 calls later none of that number lives */
	c->started_ns = time_now_ns();
	return c;
}

static int
open_journal(struct call *c, const struct msg_call_start *m, struct ends *e, struct err *err)
{
	struct keeper *k = c->keeper;

	/* of a subsystem it has the log alone, which nobody has to read */
	if (journal_open(&c->journal, k->fds[KEEPER_CALLS], c->id,
			 c->sftp ? 0 : k->journal_bytes_max, fd_steal(&e->file), err) < 0)
		return -1;
	if (c->sftp)
		journal_disown(&c->journal);
	if (journal_start(&c->journal, c->id, command_text(k, m),
			  str_of(c->principal), err) < 0)
		return -1;
	e->journal = journal_open_reader(k->fds[KEEPER_CALLS], c->id, err);
	if (e->journal < 0)
		return -1;
	c->growth[0] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (c->growth[0] < 0)
		return err_sys(err, errno, "make an eventfd");
	c->n_growth = 1;
	return 0;
}

/* ---- hand it over ---- */

/* What init is to start. A call that waits for its shell keeps it. */
struct launch {
	struct buf argv, env;
	int fds[4]; /* owned: its three streams and its place; -1: none */
	uint32_t columns, rows, x_pixels, y_pixels;
};

void
launch_free(struct launch *l)
{
	if (!l)
		return;
	for (int i = 0; i < 4; i++)
		fd_close(&l->fds[i]);
	buf_free(&l->argv);
	buf_free(&l->env);
	free(l);
}
AUTO_OF(launch)

void
launch_resize(struct launch *l, const struct msg_call_resize *m)
{
	l->columns = m->columns;
	l->rows = m->rows;
	l->x_pixels = m->x_pixels;
	l->y_pixels = m->y_pixels;
}

static int
launch_take(struct call *c, const struct msg_call_start *m, struct ends *take, struct err *err)
{
	auto_of(launch) struct launch *l = try_new(1, sizeof *l);

	if (!l)
		return err_set(err, ERR_UNAVAILABLE, "no memory for a call");
	*l = (struct launch){
	    .argv = BUF_MAX(ARGV_MAX_BYTES),
	    .env = BUF_MAX(ENV_MAX_BYTES),
	    .fds = {fd_steal(&take->in), fd_steal(&take->out), fd_steal(&take->err),
		    fd_steal(&take->place)},
	    .columns = m->columns,
	    .rows = m->rows,
	    .x_pixels = m->x_pixels,
	    .y_pixels = m->y_pixels,
	};
	if (fill_argv(c, m, &l->argv, err) < 0 || fill_env(c->keeper, m, &l->env, err) < 0)
		return -1;
	c->launch = steal(&l);
	return 0;
}

static int
send_exec(struct call *c, const struct launch *l, struct err *err)
{
	struct keeper *k = c->keeper;
	int fds[4];

	for (int i = 0; i < 4; i++)
		fds[i] = l->fds[i] >= 0 ? l->fds[i] : k->null; /* a PTY's streams are init's to make */
	const bool own_cwd = c->options.cwd[0] != '\0'; /* that one, or none */
	const struct msg_init_exec body = {
	    .call = c->number,
	    .pty = c->pty,
	    .columns = l->columns,
	    .rows = l->rows,
	    .x_pixels = l->x_pixels,
	    .y_pixels = l->y_pixels,
	    .no_cgroup = l->fds[3] < 0,
	    .cwd = str_of(own_cwd ? c->options.cwd : k->cwd),
	    .cwd_else = own_cwd ? STR_LIT("") : str_of(k->home),
	    .argv = buf_view(&l->argv),
	    .env = buf_view(&l->env),
	    .uid = k->uid,
	    .gid = k->gid,
	};
	if (c->sftp && sftp_send_files(c, err) < 0)
		return -1;
	return wire_send_fds(&k->init, MSG_init_exec, &body, fds, 4, err);
}

/* The key first, durably: no crash can make the call begin twice. */
int
admit_launch(struct call *c, struct err *err)
{
	auto_of(launch) struct launch *l = steal(&c->launch);
	struct once *o = &c->keeper->once;
	const bool keyed = c->options.key[0] != '\0';

	if (keyed && once_add(o, str_of(c->options.key), &c->request, c->id, err) < 0)
		return -1;
	if (send_exec(c, l, err) == 0)
		return 0;
	if (keyed)
		once_take_back(o);
	return -1;
}

static void
spool_start(const struct call *c)
{
	struct msg_call_record r = {
	    .kind = c->sftp ? STR_LIT("sftp") : STR_LIT("start"),
	    .call = str_of(c->id),
	    .principal = str_of(c->principal),
	    .command = str_of(c->command),
	    .time_ns = time_real_ns(),
	};
	keeper_record(c->keeper, &r);
}

static int
hand_over(struct call *c, const struct msg_call_start *m, struct ends *e, struct err *err)
{
	if (launch_take(c, m, e, err) < 0)
		return -1;
	return shell_must_wait(c) ? 0 : admit_launch(c, err);
}

static int
start(struct call *c, const struct msg_call_start *m, struct ends *e, struct err *err)
{
	struct keeper *k = c->keeper;
	struct err no_place;

	if (m->kind == KIND_SUBSYSTEM && sftp_open(c, err) < 0)
		return -1;
	if (open_streams(c, e, err) < 0 || open_journal(c, m, e, err) < 0 || spill_open(c, err) < 0)
		return -1;
	if (e->place < 0 && k->engine->call_begin(&k->box, c->id, &e->place, &no_place) < 0) {
		/* It runs, but what it leaves behind cannot be told from the others'. */
		log_err(&no_place, "call %s: a place for its processes", c->id);
		e->place = -1;
		c->place_gone = true;
	}
	if (hand_over(c, m, e, err) < 0) {
		if (!c->place_gone)
			(void)!k->engine->call_end(&k->box, c->id, &no_place);
		fd_close(&e->place);
		if (err->code == ERR_UNAVAILABLE)
			err->code = ERR_AGAIN; /* nothing runs: the next session will do as well */
		return -1;
	}
	return 0;
}

static int
refuse(struct grant *g, uint32_t channel, const struct err *why, struct err *err)
{
	return wire_send(&g->conn, call_refused, err, .channel = channel,
			 .code = (uint32_t)why->code, .why = str_of(why->why),
			 .hint = str_of(why->hint));
}

static int
say_started(const struct call *c, struct grant *g, const struct ends *e, struct err *err)
{
	const struct msg_call_piped piped = {.channel = c->channel, .call = str_of(c->id)};
	const struct msg_call_started body = {.channel = c->channel, .call = str_of(c->id)};
	const int fds[3] = {e->feed, c->sftp ? e->direct : e->journal, c->growth[0]};

	return c->sftp ? wire_send_fds(&g->conn, MSG_call_piped, &piped, fds, 2, err)
		       : wire_send_fds(&g->conn, MSG_call_started, &body, fds, 3, err);
}

/* What was made for a call that did not start. */
static void
take_back(const struct call *c, const struct ends *e)
{
	struct keeper *k = c->keeper;
	struct err ignored;

	if (e->place >= 0)
		(void)!k->engine->call_end(&k->box, c->id, &ignored);
	if (c->journal.fd >= 0 || e->file >= 0)
		journal_remove(k->fds[KEEPER_CALLS], c->id);
	spill_remove(c);
}

static int
begin(struct grant *g, const struct msg_call_start *m, const struct call_options *options,
      const struct digest *request, struct err *err)
{
	__attribute__((cleanup(ends_done))) struct ends e = {-1, -1, -1, -1, -1, -1, -1, -1};
	auto_of(call) struct call *c = NULL;
	struct err why;

	if (check_room(g->keeper, &why) < 0 ||
	    (options->key[0] && once_ready(&g->keeper->once, &why) < 0))
		return refuse(g, m->channel, &why, err);
	c = new_call(g, m, options);
	if (!c) {
		err_set(&why, ERR_UNAVAILABLE, "no memory for a call");
		return refuse(g, m->channel, &why, err);
	}
	c->request = *request;
	ahead_take(g->keeper, c->id, &e.file, &e.place);
	if (start(c, m, &e, &why) < 0) {
		log_err(&why, "start a call");
		take_back(c, &e);
		return refuse(g, m->channel, &why, err);
	}
	struct call *begun = steal(&c);
	call_begin(begun);
	const int told = say_started(begun, g, &e, err);
	spool_start(begun);
	return told;
}

int
admit_call(struct grant *g, const struct msg_call_start *m, struct err *err)
{
	struct call_options options;
	struct digest request = {0};
	struct err why;

	if (check(g, m, &options, &why) < 0)
		return refuse(g, m->channel, &why, err);
	if (options.key[0])
		request = request_sum(g, m, &options);
	const int joined = request_join(g, m, &options, &request, &why);
	if (joined < 0)
		return refuse(g, m->channel, &why, err);
	return joined ? 0 : begin(g, m, &options, &request, err);
}
