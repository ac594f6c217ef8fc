/* A session channel: what the client asks for, and its end.
 *
 * Requests are answered at once, since libssh cannot do it later: an exec is always "success", and
 * what goes wrong afterwards is a line on stderr and an exit status. */
#include "conn.h"

#include "base/log.h"
#include "base/time.h"

#include <signal.h>
#include <stdlib.h>

/* libssh marks the accessors of parsed messages deprecated in favour of one callback per request;
 * with those, a channel cannot be refused its second exec. */
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

enum { LINE_ALWAYS_BYTES = 4096, TERM_MAX_BYTES = 64 };

struct channel *
channel_find(struct conn *c, uint32_t number)
{
	struct channel *ch = c->channels;
	while (ch && ch->number != number)
		ch = ch->next;
	return ch;
}

static struct channel *
find_ssh(struct conn *c, ssh_channel ssh)
{
	struct channel *ch = c->channels;
	while (ch && ch->ssh != ssh)
		ch = ch->next;
	return ch;
}

void
channel_enter(struct channel *ch, enum channel_state state)
{
	ch->state = state;
	conn_ready(ch);
}

/* ---- words for the client ---- */

bool
channel_bytes(struct channel *ch, enum text t, struct str s)
{
	struct conn *c = ch->conn;

	if (ch->out.eof_sent) /* as with sshd, whose clients hear no more then either */
		return true;
	if (c->text_bytes + s.len > TEXT_MAX_BYTES && s.len > LINE_ALWAYS_BYTES)
		return false;
	const size_t before = ch->out.text[t].len;
	buf_str(&ch->out.text[t], s);
	c->text_bytes += ch->out.text[t].len - before;
	conn_ready(ch);
	return !buf_bad(&ch->out.text[t]);
}

bool
channel_text(struct channel *ch, enum text t, struct str s)
{
	auto_buf lines = BUF_MAX(2 * TEXT_MAX_BYTES);

	if (!ch->pty)
		return channel_bytes(ch, t, s);
	for (size_t i = 0; i < s.len; i++) {
		if (s.at[i] == '\n')
			buf_char(&lines, '\r');
		buf_char(&lines, s.at[i]);
	}
	return channel_bytes(ch, t, buf_view(&lines));
}

void
channel_fail(struct channel *ch, struct err *err)
{
	auto_buf line = BUF_MAX(LINE_ALWAYS_BYTES);

	if (ch->state == CHANNEL_ENDING)
		return;
	if (ch->json) {
		json_put_error(&line, err);
	} else {
		char text[1024];
		buf_add(&line, text, err_line(err, text, sizeof text));
	}
	buf_char(&line, '\n');
	channel_text(ch, TEXT_ERR, buf_view(&line));
	ch->exit_status = (uint32_t)err_exit(err->code);
	ch->exit_signal = 0;
	channel_enter(ch, CHANNEL_ENDING);
}

/* ---- libssh's callbacks: flags and queues only ---- */

static void
on_eof(ssh_session ssh, ssh_channel channel, void *ctx)
{
	struct channel *ch = ctx;

	(void)ssh;
	(void)channel;
	ch->client_eof = true;
	conn_ready(ch);
}

static void
on_close(ssh_session ssh, ssh_channel channel, void *ctx)
{
	struct channel *ch = ctx;

	(void)ssh;
	(void)channel;
	ch->client_closed = true;
	conn_ready(ch);
}

static void
on_signal(ssh_session ssh, ssh_channel channel, const char *name, void *ctx)
{
	(void)ssh;
	(void)channel;
	for (int i = 1; name && i < NSIG; i++) {
		const char *known = sigabbrev_np(i);
		if (known && strcmp(known, name) == 0) {
			peers_signal(ctx, (unsigned)i);
			return;
		}
	}
}

/* Its presence is the answer "success". */
static void
on_agent(ssh_session ssh, ssh_channel channel, void *ctx)
{
	struct channel *ch = ctx;

	(void)ssh;
	(void)channel;
	ch->wants_agent = ch->state == CHANNEL_OPEN && !ch->conn->control;
}

/* ---- a channel that we have closed lives on in libssh until the client closes it too ---- */

/* What was on its way is dropped with the channel; libssh would keep any amount. */
static int
on_late_data(ssh_session ssh, ssh_channel channel, void *bytes, uint32_t n, int is_err, void *ctx)
{
	(void)ssh;
	(void)channel;
	(void)bytes;
	(void)is_err;
	if (n > WINDOW_MAX_BYTES)
		conn_end(ctx, "the client goes on sending to a channel that was closed");
	return 0; /* taking it would open the window again */
}

static void
on_late_close(ssh_session ssh, ssh_channel channel, void *ctx)
{
	struct conn *c = ctx;

	(void)ssh;
	(void)channel;
	c->unclosed--;
}

static void
close_ssh(struct channel *ch)
{
	struct conn *c = ch->conn;

	if (!ch->client_closed) {
		c->late.userdata = c;
		c->late.channel_data_function = on_late_data;
		c->late.channel_close_function = on_late_close;
		ssh_callbacks_init(&c->late);
		ssh_set_channel_callbacks(ch->ssh, &c->late);
		if (++c->unclosed > UNCLOSED_MAX)
			conn_end(c, "the client does not close its channels");
	}
	ssh_channel_close(ch->ssh);
}

/* ---- a channel's life ---- */

struct channel *
channel_make(struct conn *c)
{
	if (!c->proven || c->closing || c->ended || c->channels_n >= c->channels_max)
		return NULL;
	struct channel *ch = try_new(1, sizeof *ch);
	if (!ch)
		return NULL;
	ch->conn = c;
	ch->number = ++c->last_number;
	ch->in.fd = ch->out.journal = ch->out.growth = ch->out.pipe = -1;
	for (int t = 0; t < TEXTS; t++)
		ch->out.text[t] = BUF_MAX(TEXT_MAX_BYTES + 64 * LINE_ALWAYS_BYTES);
	ch->out.end_frame = BUF_MAX(LINE_ALWAYS_BYTES);
	ch->out.follow = true;
	ch->env = BUF_MAX(ENV_MAX_BYTES);
	ch->term = BUF_MAX(TERM_MAX_BYTES);
	ch->command = BUF_MAX(COMMAND_MAX_BYTES);
	ch->notice = BUF_MAX(LINE_ALWAYS_BYTES);
	ch->next = c->channels;
	c->channels = ch;
	c->channels_n++;
	return ch;
}

int
channel_attach(struct channel *ch)
{
	ch->ssh = ssh_channel_new(ch->conn->ssh);
	if (!ch->ssh)
		return -1;
	ssh_channel_set_blocking(ch->ssh, 0);
	ch->callbacks = (struct ssh_channel_callbacks_struct){
	    .userdata = ch,
	    .channel_data_function = flow_on_data,
	    .channel_eof_function = on_eof,
	    .channel_close_function = on_close,
	    .channel_signal_function = on_signal,
	    .channel_auth_agent_req_function = on_agent,
	};
	ssh_callbacks_init(&ch->callbacks);
	ssh_set_channel_callbacks(ch->ssh, &ch->callbacks);
	ch->conn->had_channel = true;
	return 0;
}

static int
open_channel(struct conn *c, ssh_message m)
{
	struct channel *ch = channel_make(c);

	if (!ch)
		return 1;
	if (channel_attach(ch) < 0) {
		channel_drop(ch);
		return 1;
	}
	ch->opened = true;
	ssh_message_channel_request_open_reply_accept_channel(m, ch->ssh);
	return 0;
}

void
channel_drop(struct channel *ch)
{
	struct conn *c = ch->conn;

	if (ch->ssh) { /* closing it pumps: from here on no callback finds us */
		ssh_remove_channel_callbacks(ch->ssh, &ch->callbacks);
		if (ch->opened || ssh_channel_is_open(ch->ssh))
			close_ssh(ch); /* else it would be the client's number 0 that is closed */
		ssh_channel_free(ch->ssh);
	}
	conn_forget(ch); /* what was sent before may have pumped in work for it */
	for (struct channel **pp = &c->channels; *pp; pp = &(*pp)->next)
		if (*pp == ch) {
			*pp = ch->next;
			c->channels_n--;
			break;
		}
	flow_done(ch);
	if (ch->forward)
		timer_cancel(&ch->forward->opening);
	free(ch->forward);
	buf_free(&ch->env);
	buf_free(&ch->term);
	buf_free(&ch->command);
	buf_free(&ch->notice);
	free(ch);
}

/* ---- requests ---- */

static bool
is_passed_on(const char *name)
{
	return strcmp(name, "LANG") == 0 || strncmp(name, "LC_", 3) == 0 ||
	       strcmp(name, "TERM") == 0 || strcmp(name, "COLORTERM") == 0;
}

/* Always "success": OpenSSH's server does not tell either, and clients complain. */
static void
take_env(struct channel *ch, const char *name, const char *value)
{
	if (!name || !value)
		return;
	const size_t n = strlen(name) + strlen(value) + 2;
	const bool for_us = options_is_ours(str_of(name));
	if ((!is_passed_on(name) && !for_us) || strchr(name, '=') || ch->env.len + n > ENV_MAX_BYTES)
		return;
	buf_fmt(&ch->env, "%s=%s", name, value);
	buf_char(&ch->env, '\0');
}

static uint32_t
cells(int n)
{
	return n > 0 && n < 65536 ? (uint32_t)n : 0; /* struct winsize holds no more */
}

static void
take_size(struct channel *ch, ssh_message m)
{
	ch->columns = cells(ssh_message_channel_request_pty_width(m));
	ch->rows = cells(ssh_message_channel_request_pty_height(m));
	ch->x_pixels = cells(ssh_message_channel_request_pty_pxwidth(m));
	ch->y_pixels = cells(ssh_message_channel_request_pty_pxheight(m));
}

void
channel_tell_size(struct channel *ch)
{
	if (!ch->resized)
		return;
	ch->resized = false;
	peers_resize(ch);
}

static int
take_options(struct channel *ch, struct err *err)
{
	struct call_options options;

	if (options_parse(buf_view(&ch->env), &options, err) < 0)
		return -1;
	if (options.detach && ch->pty)
		return err_set(err, ERR_USAGE, "BERTH_DETACH: not for a terminal");
	if (options.max_output && ch->pty)
		return err_set(err, ERR_USAGE, "BERTH_MAX_OUTPUT: not for a terminal");
	if (options.max_output && !ch->out.held)
		ch->out.held = held_new(options.max_output);
	ch->detach = options.detach;
	ch->stdin_null = options.input == OPTION_INPUT_NULL || options.detach;
	ch->keyed = options.key[0] != '\0';
	return 0;
}

/* SESSION, or SESSION+SNAPSHOT, of which sftp alone can be had; its keeper refuses all else too. */
static int
check_user(const struct conn *c, uint32_t kind, struct err *err)
{
	if (!strchr(c->user, '+'))
		return session_ref_check(str_of(c->user), err);
	if (snapshot_ref_check(str_of(c->user), err) < 0)
		return -1;
	if (kind == 2)
		return 0;
	err_set(err, ERR_DENIED,
		"a snapshot is only read: sftp and scp serve it, and nothing else");
	return err_hint(err, "to run something on it: ssh berth@HOST fork %.64s NAME", c->user);
}

static void
begin_call(struct channel *ch, uint32_t kind, const char *command)
{
	struct err err = {0};
	const struct conn *c = ch->conn;

	ch->kind = kind;
	buf_text(&ch->command, command);
	if (ch->env.len + c->link_env_bytes <= ENV_MAX_BYTES)
		buf_add(&ch->env, c->link_env, c->link_env_bytes);
	if (check_user(c, kind, &err) < 0)
		err_what(&err, "%.64s", c->user);
	else if (take_options(ch, &err) == 0 && buf_bad(&ch->command))
		err_set(&err, ERR_USAGE, "a command of more than %d bytes", COMMAND_MAX_BYTES);
	if (err.code != ERR_NONE) {
		err_what(&err, "call");
		channel_fail(ch, &err);
		return;
	}
	channel_enter(ch, CHANNEL_WANTED);
	peers_start(ch);
}

/* exec, shell, subsystem: 1 where the channel has one already. */
static int
begin(struct channel *ch, ssh_message m, uint32_t kind, const char *command)
{
	if (ch->state != CHANNEL_OPEN || ch->client_closed)
		return 1;
	ssh_message_channel_request_reply_success(m);
	if (ch->conn->control)
		control_exec(ch, str_of(command));
	else
		begin_call(ch, kind, command);
	return 0;
}

/* A name that is not known is refused as RFC 4254 has it, which clients put into words of their own. */
static int
begin_subsystem(struct channel *ch, ssh_message m)
{
	const char *name = ssh_message_channel_request_subsystem(m);

	if (!name || strcmp(name, "sftp") != 0 || ch->conn->control)
		return 1;
	return begin(ch, m, 2, name);
}

static int
take_request(struct channel *ch, ssh_message m)
{
	const char *command;

	switch (ssh_message_subtype(m)) {
	case SSH_CHANNEL_REQUEST_EXEC:
		command = ssh_message_channel_request_command(m);
		return begin(ch, m, 0, command ? command : "");
	case SSH_CHANNEL_REQUEST_SHELL:
		return begin(ch, m, 1, "");
	case SSH_CHANNEL_REQUEST_SUBSYSTEM:
		return begin_subsystem(ch, m);
	case SSH_CHANNEL_REQUEST_PTY:
		if (ch->state != CHANNEL_OPEN || !(ch->conn->allow.flags & ALLOW_PTY))
			return 1;
		buf_clear(&ch->term);
		command = ssh_message_channel_request_pty_term(m);
		buf_text(&ch->term, command ? command : "");
		if (buf_bad(&ch->term))
			buf_clear(&ch->term);
		ch->pty = true;
		take_size(ch, m);
		break;
	case SSH_CHANNEL_REQUEST_WINDOW_CHANGE:
		take_size(ch, m);
		ch->resized = ch->pty;
		conn_ready(ch);
		return 0; /* wants no reply */
	case SSH_CHANNEL_REQUEST_ENV:
		if (ch->state != CHANNEL_OPEN)
			return 1;
		take_env(ch, ssh_message_channel_request_env_name(m),
			 ssh_message_channel_request_env_value(m));
		break;
	default:
		return 1;
	}
	ssh_message_channel_request_reply_success(m);
	return 0;
}

int
channel_message(ssh_session ssh, ssh_message m, void *ctx)
{
	struct conn *c = ctx;
	struct channel *ch;

	(void)ssh;
	switch (ssh_message_type(m)) {
	case SSH_REQUEST_AUTH: /* a method without a callback: refused */
		auth_count(c);
		return 1;
	case SSH_REQUEST_CHANNEL_OPEN:
		if (ssh_message_subtype(m) == SSH_CHANNEL_SESSION)
			return open_channel(c, m);
		if (ssh_message_subtype(m) == SSH_CHANNEL_DIRECT_TCPIP)
			return forward_take_open(c, m);
		forward_refused(c);
		return 1;
	case SSH_REQUEST_GLOBAL:
		return forward_take_request(c, m);
	case SSH_REQUEST_CHANNEL:
		ch = find_ssh(c, ssh_message_channel_request_channel(m));
		return ch ? take_request(ch, m) : 1;
	case 0: /* no constant names it: a channel to a Unix socket is one */
		forward_refused(c);
		return 1;
	default: /* services as usual */
		return 1;
	}
}

/* ---- steps ---- */

static void
end_call(struct channel *ch)
{
	if (ch->lost) { /* it holds the call's id, for the words of a loss */
		buf_clear(&ch->notice);
		flow_end_notice(ch, &ch->notice);
	}
	if (ch->notice.len) {
		buf_char(&ch->notice, '\n');
		channel_text(ch, TEXT_ERR, buf_view(&ch->notice));
	}
	if ((ch->notice.len || ch->out.has_gap) && !ch->exit_status && !ch->exit_signal)
		ch->exit_status = (uint32_t)err_exit(ERR_INCOMPLETE);
	channel_enter(ch, CHANNEL_ENDING);
}

/* The command has closed its streams and runs on: a client that reads to their end goes on, as with
 * sshd. Not where the middle of them is held back until the call's end. */
static void
close_output(struct channel *ch)
{
	struct output *out = &ch->out;

	if (ch->state != CHANNEL_LIVE || out->eof_sent || out->held || out->journal < 0 ||
	    out->reader.at < out->closed_at)
		return;
	out->eof_sent = true;
	ssh_channel_send_eof(ch->ssh);
}

/* All that was to be said was said: what does the channel's state make of it? */
static void
drained(struct channel *ch)
{
	struct err err = {0};

	if (ch->state == CHANNEL_LIVE && ch->lost && ch->out.finished && !flow_end_frame(ch)) {
		err_set(&err, ERR_UNAVAILABLE, "lost: its session ended without a word");
		err_hint(&err, "its output up to here is kept: ssh berth@HOST call output %s",
			 buf_cstr(&ch->notice));
		err_what(&err, "call");
		channel_fail(ch, &err);
	} else if (ch->state == CHANNEL_LIVE && (ch->end_known || ch->lost) && ch->out.finished) {
		end_call(ch);
	} else if (ch->state == CHANNEL_VERB && ch->end_known &&
		   ((ch->out.journal < 0 && ch->out.pipe < 0) || ch->out.finished)) {
		if (ch->out.hung_up && !ch->verb_failed && !ch->out.end_frame.len) {
			err_set(&ch->verb_err, ERR_INCOMPLETE, "its journal ends without a word");
			err_hint(&ch->verb_err, "what became of it: ssh berth@HOST call show ID");
			err_what(&ch->verb_err, "call output");
			ch->verb_failed = true;
		}
		if (ch->verb_failed)
			channel_fail(ch, &ch->verb_err);
		else if (ch->out.has_gap)
			ch->exit_status = (uint32_t)err_exit(ERR_INCOMPLETE);
		if (ch->state == CHANNEL_VERB)
			channel_enter(ch, CHANNEL_ENDING);
	}
}

/* The end in the order that clients understand: EOF, exit, CLOSE. libssh keeps it behind what it
 * still holds, and frees the channel when the peer's CLOSE has come. */
static void
finish(struct channel *ch)
{
	ssh_channel_send_eof(ch->ssh);
	if (ch->exit_signal) {
		const char *name = sigabbrev_np((int)ch->exit_signal);
		ssh_channel_request_send_exit_signal(ch->ssh, name ? name : "KILL",
						     ch->core_dumped, "", "");
	} else {
		ssh_channel_request_send_exit_status(ch->ssh, (int)ch->exit_status);
	}
	ch->conn->finished_ns = time_now_ns();
	channel_drop(ch);
}

void
channel_step(struct channel *ch)
{
	struct conn *c = ch->conn;

	if (ch->forward) {
		forward_step(ch);
		return;
	}
	if (ch->client_closed) {
		if (ch->state == CHANNEL_VERB)
			control_cancel(ch);
		peers_leave(ch);
		channel_drop(ch);
		return;
	}
	channel_tell_size(ch);
	flow_input(ch);
	const uint64_t progress = conn_progress(c);
	const enum flow flow = flow_output(ch);
	if (ch->client_closed || flow == FLOW_MORE) {
		conn_ready(ch);
		return;
	}
	if (flow == FLOW_STALLED) {
		conn_stall(ch, progress);
		return;
	}
	if (ch->out.closed_at)
		close_output(ch);
	if (ch->state == CHANNEL_ENDING)
		finish(ch);
	else
		drained(ch);
}
