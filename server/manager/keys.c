/* STATE/keys: what is read again when it changes, and what the first start makes. */
#include "keys.h"
#include "base/digest.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/path.h"
#include "manager/spawn.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { KEYS_FILE_MAX_BYTES = 4 << 20, KEYS_MAX = 16384, KEY_TEXT_MAX_BYTES = 16384 };

static void
forget(struct keys *k)
{
	for (size_t i = 0; i < k->n; i++)
		key_done(&k->list[i]);
	free(k->list);
	k->list = NULL;
	k->n = 0;
}

static void
load_authorized(struct keys *k, struct str text)
{
	struct str rest = text, line;
	struct err err;

	forget(k);
	k->loads++;
	k->sum = digest_of(text);
	k->list = xnew(KEYS_MAX, sizeof *k->list); /* untouched pages cost nothing */
	for (unsigned n = 1; str_cut(&rest, '\n', &line) && k->n < KEYS_MAX; n++) {
		const int got = key_line_parse(line, &k->list[k->n], &err);
		if (got < 0)
			log_err(&err, "authorized_keys line %u is not used", n);
		k->n += got > 0;
	}
	if (rest.at && rest.len)
		log_line("authorized_keys: what stands behind the first %d keys is not used",
			 KEYS_MAX);
}

static void
load_revoked(struct keys *k, struct str text)
{
	revoked_done(&k->revoked);
	k->loads++;
	k->revoked_sum = digest_of(text);
	revoked_parse(text, &k->revoked);
	if (k->revoked.why.code != ERR_NONE)
		log_err(&k->revoked.why, "nobody is let in");
}

/* Whether this is another reason than the last one; it is told and acted upon once. */
static bool
is_news(struct err *last, const struct err *why)
{
	if (last->code != ERR_NONE && strcmp(last->why, why->why) == 0)
		return false;
	*last = *why;
	return true;
}

/* Whether it is to be looked at again. What cannot be read names nobody. */
static bool
look_authorized(struct keys *k)
{
	auto_buf text = BUF_MAX(KEYS_FILE_MAX_BYTES);
	struct err err;
	const enum keys_found found = keys_file_look(&k->authorized_file, k->dir, &text, &err);
	const struct str got = text.at ? buf_view(&text) : STR_LIT("");

	if (found == KEYS_BAD && is_news(&k->authorized_bad, &err)) {
		log_err(&err, "authorized_keys cannot be used, nobody is let in");
		load_authorized(k, STR_LIT(""));
	}
	if (found != KEYS_TAKEN)
		return found == KEYS_LATER;
	const struct digest sum = digest_of(got);
	if (k->authorized_bad.code != ERR_NONE || !k->list || !digest_equal(&sum, &k->sum))
		load_authorized(k, got);
	k->authorized_bad = (struct err){0};
	return false;
}

static bool
look_revoked(struct keys *k)
{
	auto_buf text = BUF_MAX(KEYS_FILE_MAX_BYTES);
	struct err err;
	const enum keys_found found = keys_file_look(&k->revoked_file, k->dir, &text, &err);
	const struct str got = text.at ? buf_view(&text) : STR_LIT("");

	if (found == KEYS_BAD && is_news(&k->revoked_bad, &err)) {
		load_revoked(k, STR_LIT(""));
		k->revoked.why = err;
		log_err(&err, "nobody is let in");
	}
	if (found != KEYS_TAKEN)
		return found == KEYS_LATER;
	const struct digest sum = digest_of(got);
	if (k->revoked_bad.code != ERR_NONE || !digest_equal(&sum, &k->revoked_sum))
		load_revoked(k, got);
	k->revoked_bad = (struct err){0};
	return false;
}

bool
keys_reload(struct keys *k)
{
	const bool authorized = look_authorized(k), revoked = look_revoked(k);

	return authorized || revoked;
}

const struct key *
keys_next(const struct keys *k, struct str blob, bool authority, const struct key *last)
{
	for (size_t i = last ? (size_t)(last - k->list) + 1 : 0; i < k->n; i++)
		if (k->list[i].authority == authority && str_equal(blob, key_blob(&k->list[i])))
			return &k->list[i];
	return NULL;
}

/* ssh-keygen writes OpenSSH's own format with the right modes; we only choose names. */
static int
make_key(const struct keys *k, const char *name, const char *comment, struct err *err)
{
	char path[64];

	if (path_exists(k->dir, name))
		return 0;
	snprintf(path, sizeof path, "/proc/%d/fd/%d/%s", (int)getpid(), k->dir, name);
	const char *const argv[] = {"/usr/bin/ssh-keygen",
				    "-q",
				    "-t",
				    "ed25519",
				    "-N",
				    "",
				    "-C",
				    comment,
				    "-f",
				    path,
				    NULL};
	if (spawn_run(argv, err) < 0) {
		err_hint(err, "apt-get install openssh-client");
		return err_add(err, "make the key %s", name);
	}
	return path_sync_dir(k->dir, err);
}

/* On the first start alone: whoever takes authorized_keys away later wants nobody to come in. */
static int
authorize_operator(const struct keys *k, struct err *err)
{
	auto_buf text = BUF_MAX(KEY_TEXT_MAX_BYTES);

	if (path_exists(k->dir, "authorized_keys"))
		return 0;
	buf_text(
	    &text,
	    "# who may come in: [role=\"operator|developer|orchestrator\",sessions=\"glob,glob\"] "
	    "TYPE KEY COMMENT\nrole=\"operator\" ");
	if (path_read(k->dir, "operator.pub", &text, err) < 0)
		return -1;
	return path_replace(k->dir, "authorized_keys", 0600, buf_view(&text), err);
}

int
keys_open(struct keys *k, int state_dir, const char *state_path, struct err *err)
{
	*k = (struct keys){.dir = -1,
			   .host = BUF_MAX(KEY_TEXT_MAX_BYTES),
			   .authorized_file.name = "authorized_keys",
			   .revoked_file.name = "revoked_keys"};
	k->dir = path_open_dir(state_dir, "keys", 0700, err);
	if (k->dir < 0)
		return err_add(err, "%s/keys", state_path);
	const bool is_first = !path_exists(k->dir, "host_ed25519"); /* made last */
	if (make_key(k, "operator", "berth operator", err) < 0 ||
	    (is_first && authorize_operator(k, err) < 0) ||
	    make_key(k, "host_ed25519", "berth host key", err) < 0 ||
	    path_read(k->dir, "host_ed25519", &k->host, err) < 0) {
		keys_close(k);
		return -1;
	}
	(void)keys_reload(k);
	if (!keys_known(k)) /* nothing before to go on with */
		err_set(&k->revoked.why, ERR_AGAIN, "files of keys are just being written");
	return 0;
}

void
keys_close(struct keys *k)
{
	forget(k);
	revoked_done(&k->revoked);
	buf_free(&k->host);
	fd_close(&k->dir);
}
