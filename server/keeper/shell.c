/* Named shells: calls that share a shell's state, one after the other (shell_text.def).
 *
 *  1. the keeper knows a shell by its key alone; what is in its state is the session's, and never read
 *     here. A shell is there while a call names it;
 *  2. a shell is taken from a call's launch until init has told of its process's end: what that left
 *     running holds nobody up. The next is the one that came first;
 *  3. a developer's shells are his alone: his principal's digest is in their key, with an @ that no
 *     name has. Orchestrators and operators share theirs. */
#include "keeper.h"

#include "base/digest.h"
#include "base/log.h"

#include <signal.h>
#include <stdio.h>

static const struct {
	const char *launch, *bash, *bash_save, *sh, *sh_save;
} text = {
#define SHELL_TEXT(name, ...) .name = __VA_ARGS__,
#include "shell_text.def"
#undef SHELL_TEXT
};

void
shell_key(const struct call_options *o, const struct grant *owner, char out[SHELL_KEY_BYTES])
{
	out[0] = '\0';
	if (!o->shell[0])
		return;
	if (!str_is(str_of(owner->role), "developer")) {
		snprintf(out, SHELL_KEY_BYTES, "%s", o->shell);
		return;
	}
	const struct digest who = digest_of(str_of(owner->principal));
	const struct digest_text hex = digest_text(&who);
	snprintf(out, SHELL_KEY_BYTES, "%s@%.16s", o->shell, hex.text);
}

/* ---- what runs ---- */

static void
add_word(struct buf *b, struct str s)
{
	buf_str(b, s);
	buf_char(b, '\0');
}

static void
add_path(struct buf *b, const struct call *c)
{
	buf_fmt(b, "%s/.local/state/berth/shells/%s",
		strcmp(c->keeper->home, "/") == 0 ? "" : c->keeper->home, c->shell);
}

/* As a shell takes it for one word, whatever is in it. */
static void
add_quoted(struct buf *b, struct str s)
{
	buf_char(b, '\'');
	for (size_t i = 0; i < s.len; i++)
		if (s.at[i] == '\'')
			buf_text(b, "'\\''");
		else
			buf_char(b, s.at[i]);
	buf_text(b, "'");
	buf_char(b, '\0');
}

int
shell_fill_argv(const struct call *c, struct str command, struct buf *out, struct err *err)
{
	const struct keeper *k = c->keeper;
	auto_buf path = BUF_MAX(1024);

	add_path(&path, c);
	if (buf_bad(&path))
		return err_set(err, ERR_INTERNAL, "the path of a shell's state is too long");
	add_word(out, str_of(k->shell));
	add_word(out, STR_LIT("-c"));
	add_word(out, str_of(text.launch));
	add_word(out, str_of(k->shell));
	add_word(out, buf_view(&path));
	add_quoted(out, buf_view(&path));
	add_word(out, c->options.cwd[0] ? STR_LIT("stay") : STR_LIT(""));
	add_word(out, command);
	add_word(out, str_of(text.bash));
	add_word(out, str_of(text.bash_save));
	add_word(out, str_of(text.sh));
	add_word(out, str_of(text.sh_save));
	return buf_bad(out) ? err_set(err, ERR_USAGE, "the command is too long") : 0;
}

/* ---- who waits ---- */

/* The one that is in it; else the first that waits for it; else NULL. */
static struct call *
find_first(struct keeper *k, const char *key)
{
	struct call *first = NULL;

	for (struct call *c = k->calls; c; c = c->next) {
		if (strcmp(c->shell, key) != 0)
			continue;
		if (c->state == CALL_RUNNING)
			return c;
		if (c->state == CALL_QUEUED && (!first || (int32_t)(c->number - first->number) < 0))
			first = c;
	}
	return first;
}

static void
set_words(struct call *c, const struct call *before)
{
	snprintf(c->shell_words, sizeof c->shell_words, "%s, which is in its shell %s, to end", before->id,
		 c->options.shell);
}

bool
shell_must_wait(struct call *c)
{
	const struct call *before = c->shell[0] ? find_first(c->keeper, c->shell) : NULL;

	if (before)
		set_words(c, before);
	return before != NULL;
}

void
shell_next(struct keeper *k, const char *key)
{
	const struct journal_outcome not_run = {.exit_status = (uint32_t)err_exit(ERR_AGAIN),
						.ended_by = "lost"};
	struct call *c;
	struct err err;

	while (key[0] && (c = find_first(k, key)) && c->state == CALL_QUEUED) {
		if (admit_launch(c, &err) < 0) {
			log_err(&err, "call %s: its shell is free, but it cannot start", c->id);
			snprintf(c->excess.notice, sizeof c->excess.notice,
				 "berth: call: not run: %.220s", err.why);
			call_cancel(c, &not_run);
			continue;
		}
		call_launched(c);
		for (struct call *other = k->calls; other; other = other->next)
			if (other->state == CALL_QUEUED && strcmp(other->shell, key) == 0)
				set_words(other, c);
		return;
	}
}

void
shell_cancel_all(struct keeper *k, const char *ended_by)
{
	const struct journal_outcome ended = {.signal = SIGTERM, .ended_by = ended_by};

	for (struct call *c = k->calls, *next; c; c = next) {
		next = c->next;
		if (c->state == CALL_QUEUED)
			call_cancel(c, &ended);
	}
}
