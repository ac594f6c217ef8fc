/* The user `berth`: one verb a channel. conn checks the words and answers help; all else is the
 * manager's, which checks them again (verbs.h, invariant 2). */
#include "conn.h"

#include "base/log.h"

#include <stdio.h>

static void
end_well(struct channel *ch)
{
	ch->exit_status = 0;
	channel_enter(ch, CHANNEL_ENDING);
}

static void
answer_here(struct channel *ch, const struct request *r)
{
	auto_buf text = BUF_MAX(65536);
	struct err err;

	if (help_answer(r, &text, &err) < 0) {
		channel_fail(ch, &err);
		return;
	}
	channel_text(ch, TEXT_OUT, buf_view(&text));
	end_well(ch);
}

static int
send_verb(struct channel *ch, const struct request *r, struct err *err)
{
	auto_buf args = BUF_MAX(VERB_ARGS_MAX_BYTES);

	if (request_encode(r, &args, err) < 0)
		return -1;
	return wire_send(&ch->conn->manager, verb_start, err, .seq = ch->number,
			 .verb = str_of(r->verb->name), .json = r->json, .args = buf_view(&args));
}

void
control_exec(struct channel *ch, struct str command)
{
	auto_words words = {0};
	struct request r = {0};
	struct err err;

	if (parse_words(command, &words, &err) < 0) {
		err_what(&err, "command");
		channel_fail(ch, &err);
		return;
	}
	const int parsed = parse_request(&words, &r, &err);
	ch->json = r.json;
	ch->progress = r.progress;
	ch->verb = r.verb;
	if (parsed < 0) {
		channel_fail(ch, &err);
	} else if (!r.verb || r.help || r.verb->where == VERB_AT_CONN) {
		answer_here(ch, &r);
	} else if (send_verb(ch, &r, &err) < 0) {
		err_what(&err, "%s", r.verb->name);
		channel_fail(ch, &err);
	} else {
		ch->out.follow = false; /* until a journal comes */
		ch->feed = r.verb->id == VERB_call_input || r.verb->id == VERB_import ? FEED_ASKED
										      : FEED_NONE;
		channel_enter(ch, CHANNEL_VERB);
	}
}

static void
fail_verb(struct channel *ch, const struct err *err)
{
	if (ch->verb_failed)
		return;
	ch->verb_failed = true;
	ch->verb_err = *err;
}

void
control_output(struct channel *ch, struct str bytes)
{
	struct err err;

	if (ch->state != CHANNEL_VERB || ch->verb_failed)
		return;
	progress_clear(ch);
	if (channel_text(ch, TEXT_OUT, bytes))
		return;
	err_set(&err, ERR_INCOMPLETE, "the client does not read its output");
	err_hint(&err, "run it again");
	fail_verb(ch, &err);
	control_cancel(ch);
}

void
control_journal(struct channel *ch, struct wire *w)
{
	const struct msg_verb_journal *m = &w->message.verb_journal;
	struct err err;

	if (ch->state != CHANNEL_VERB || ch->out.journal >= 0)
		return;
	if (flow_begin_output(ch, &w->message.fds[0], &w->message.fds[1], &err) < 0) {
		fail_verb(ch, &err);
		return;
	}
	ch->out.skip_bytes = m->from;
	ch->out.follow = m->follow && m->live;
	ch->out.hung_up = !m->live;
	conn_ready(ch);
}

void
control_pipe(struct channel *ch, struct wire *w)
{
	struct err err;

	if (ch->state != CHANNEL_VERB || ch->out.pipe >= 0)
		return;
	if (piped_begin(ch, &w->message.fds[0], &err) < 0) {
		fail_verb(ch, &err);
		return;
	}
	conn_ready(ch);
}

void
control_feed(struct channel *ch, struct wire *w)
{
	struct err err;

	if (ch->state != CHANNEL_VERB || ch->feed != FEED_ASKED)
		return;
	if (flow_begin_input(ch, &w->message.fds[0], &err) < 0) {
		fail_verb(ch, &err);
		control_fed(ch, true);
		return;
	}
	ch->feed = FEED_OPEN;
	conn_ready(ch);
}

void
control_fed(struct channel *ch, bool refused)
{
	struct err err;

	ch->feed = FEED_NONE;
	if (wire_is_open(&ch->conn->manager) &&
	    wire_send(&ch->conn->manager, verb_input_end, &err, .seq = ch->number,
		      .bytes = ch->in.fed, .refused = refused) < 0)
		log_err(&err, "tell what was given");
}

void
control_exit(struct channel *ch, const struct msg_verb_exit *m)
{
	if (ch->state != CHANNEL_VERB)
		return;
	ch->exit_status = m->exit_status;
	ch->exit_signal = m->signal;
}

void
control_stream(struct channel *ch, const struct msg_verb_stream *m)
{
	if (ch->state == CHANNEL_VERB && m->stream <= JOURNAL_ERR)
		ch->out.stream = m->stream;
}

static void
control_finish(struct channel *ch)
{
	progress_clear(ch);
	ch->feed = FEED_NONE;
	flow_end_input(ch);
	ch->end_known = true;
	conn_ready(ch);
}

void
control_end(struct channel *ch, const struct msg_verb_end *m)
{
	struct err err;

	if (ch->state != CHANNEL_VERB)
		return;
	if (m->code) {
		err_set(&err, err_from_number(m->code), "%.*s", (int)m->why.len,
			m->why.at ? m->why.at : "");
		if (m->hint.len)
			err_hint(&err, "%.*s", (int)m->hint.len, m->hint.at);
		if (m->what.len)
			err_what(&err, "%.*s", (int)m->what.len, m->what.at);
		fail_verb(ch, &err);
	}
	control_finish(ch);
}

void
control_interrupt(struct channel *ch)
{
	struct err err;

	if (ch->state != CHANNEL_VERB || ch->end_known || ch->interrupted)
		return;
	ch->interrupted = true;
	if (wire_send(&ch->conn->manager, verb_interrupt, &err, .seq = ch->number) < 0)
		log_err(&err, "interrupt a verb");
}

void
control_interrupted(struct channel *ch, const struct msg_verb_interrupted *m)
{
	struct err err;

	if (ch->state != CHANNEL_VERB || m->handled)
		return;
	err_set(&err, ERR_CANCELLED, "interrupted");
	err_what(&err, "%s", ch->verb->name);
	fail_verb(ch, &err);
	control_finish(ch);
}

void
control_cancel(struct channel *ch)
{
	struct err err;

	if (!ch->end_known && wire_is_open(&ch->conn->manager) &&
	    wire_send(&ch->conn->manager, verb_cancel, &err, .seq = ch->number) < 0)
		log_err(&err, "cancel a verb");
}
