/* STATE/keys: what is read again when it changes, and what the first start makes. */
#include "keys.h"
#include "base/digest.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/path.h"
#include "manager/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
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

/* Whether the file is another than it was; *f is how it is now. */
static bool
has_changed(int dir, const char *name, struct keys_file *f)
{
	struct keys_file now = {.loaded = true};
	struct stat st;

	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0) {
		now.there = true;
		now.inode = st.st_ino;
		now.size = st.st_size;
		now.changed = st.st_ctim;
	} else {
		now.there = errno != ENOENT; /* else it is there, and cannot be seen */
	}
	const bool same = f->loaded && f->there == now.there && f->inode == now.inode &&
			  f->size == now.size && f->changed.tv_sec == now.changed.tv_sec &&
			  f->changed.tv_nsec == now.changed.tv_nsec;
	*f = now;
	return !same;
}

static void
load_authorized(struct keys *k)
{
	auto_buf text = BUF_MAX(KEYS_FILE_MAX_BYTES);
	struct err err;

	if (k->authorized_file.there && path_read(k->dir, "authorized_keys", &text, &err) < 0) {
		log_err(&err, "authorized_keys stays as it was");
		k->authorized_file.loaded = false; /* tried again with the next question */
		return;
	}
	forget(k);
	k->loads++;
	k->sum = digest_of(text.at ? buf_view(&text) : STR_LIT(""));
	k->list = xnew(KEYS_MAX, sizeof *k->list); /* untouched pages cost nothing */
	struct str rest = buf_view(&text), line;
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
load_revoked(struct keys *k)
{
	auto_buf text = BUF_MAX(KEYS_FILE_MAX_BYTES);
	struct err err;

	revoked_done(&k->revoked);
	if (k->revoked_file.there && path_read(k->dir, "revoked_keys", &text, &err) < 0) {
		k->revoked.why = err;
		k->revoked_file.loaded = false; /* tried again with the next question */
	} else {
		k->loads++;
		k->revoked_sum = digest_of(text.at ? buf_view(&text) : STR_LIT(""));
		revoked_parse(buf_view(&text), &k->revoked);
	}
	if (k->revoked.why.code != ERR_NONE)
		log_err(&k->revoked.why, "nobody is let in");
}

void
keys_reload(struct keys *k)
{
	if (has_changed(k->dir, "authorized_keys", &k->authorized_file))
		load_authorized(k);
	if (has_changed(k->dir, "revoked_keys", &k->revoked_file))
		load_revoked(k);
}

const struct key *
keys_next(const struct keys *k, struct str blob, bool authority, const struct key *last)
{
	for (size_t i = last ? (size_t)(last - k->list) + 1 : 0; i < k->n; i++)
		if (k->list[i].authority == authority && str_equal(blob, key_blob(&k->list[i])))
			return &k->list[i];
	return NULL;
}

const struct key *
keys_find_principal(const struct keys *k, const char *principal)
{
	for (size_t i = 0; i < k->n; i++)
		if (strcmp(k->list[i].principal, principal) == 0)
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
	*k = (struct keys){.dir = -1, .host = BUF_MAX(KEY_TEXT_MAX_BYTES)};
	k->dir = path_open_dir(state_dir, "keys", 0700, err);
	if (k->dir < 0)
		return err_add(err, "%s/keys", state_path);
	if (make_key(k, "host_ed25519", "berth host key", err) < 0 ||
	    make_key(k, "operator", "berth operator", err) < 0 || authorize_operator(k, err) < 0 ||
	    path_read(k->dir, "host_ed25519", &k->host, err) < 0) {
		keys_close(k);
		return -1;
	}
	keys_reload(k);
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
