/* authorized_keys as sshd(8) describes it, with two options of ours: role="…" and sessions="…".
 * A line with an option that we do not honour is refused as a whole: to ignore a restriction would
 * be to widen it. */
#include "keys.h"
#include "base/digest.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/path.h"
#include "manager/spawn.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { KEYS_FILE_MAX_BYTES = 4 << 20, KEYS_MAX = 16384, KEY_BLOB_MAX_BYTES = 16384 };

static const char *const key_types[] = {
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "ssh-rsa",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
};

static bool
is_key_type(struct str word)
{
	for (size_t i = 0; i < sizeof key_types / sizeof *key_types; i++)
		if (str_is(word, key_types[i]))
			return true;
	return false;
}

static struct str
cut_word(struct str *rest)
{
	while (rest->len && (rest->at[0] == ' ' || rest->at[0] == '\t')) {
		rest->at++;
		rest->len--;
	}
	size_t n = 0;
	bool quoted = false;
	while (n < rest->len && (quoted || (rest->at[n] != ' ' && rest->at[n] != '\t'))) {
		if (rest->at[n] == '"')
			quoted = !quoted;
		n++;
	}
	const struct str word = {rest->at, n};
	rest->at += n;
	rest->len -= n;
	return word;
}

/* name="value" off the front of an option list. */
static bool
cut_option(struct str *rest, struct str *name, struct str *value)
{
	if (rest->len == 0)
		return false;
	size_t n = 0;
	while (n < rest->len && rest->at[n] != '=' && rest->at[n] != ',')
		n++;
	*name = (struct str){rest->at, n};
	*value = (struct str){rest->at + n, 0};
	if (n + 1 < rest->len && rest->at[n] == '=' && rest->at[n + 1] == '"') {
		const size_t from = n + 2;
		for (n = from; n < rest->len && rest->at[n] != '"';)
			n++;
		*value = (struct str){rest->at + from, n - from};
		n = n < rest->len ? n + 1 : n;
	}
	if (n < rest->len &&
	    rest->at[n] == ',') /* else the next name begins with what stands here */
		n++;
	rest->at += n;
	rest->len -= n;
	return true;
}

static int
parse_options(struct str options, struct key *out, struct err *err)
{
	struct str name, value;

	while (cut_option(&options, &name, &value)) {
		if (str_is(name, "role")) {
			out->role = principal_role_parse(value);
			if (out->role == PRINCIPAL_NOBODY)
				return err_set(err, ERR_CONFIG, "no such role: %.*s",
					       (int)value.len, value.at);
		} else if (str_is(name, "sessions")) {
			if (scope_parse(value, &out->scope, err) < 0)
				return -1;
		} else if (!str_is(name, "no-pty") && !str_is(name, "no-port-forwarding") &&
			   !str_is(name, "no-agent-forwarding") &&
			   !str_is(name, "no-x11-forwarding") && !str_is(name, "no-user-rc")) {
			return err_set(err, ERR_CONFIG, "option not supported: %.*s", (int)name.len,
				       name.at);
		}
	}
	return 0;
}

/* SHA256:<base64 without padding>, as ssh-keygen -l prints it, then the comment. */
static int
name_principal(struct key *k, struct str blob, struct str comment, struct err *err)
{
	auto_free unsigned char *raw = try_new(1, blob.len + 4);
	unsigned char sum[64];

	if (!raw)
		return err_set(err, ERR_CONFIG, "no memory for a key");
	const int n = EVP_DecodeBlock(raw, (const unsigned char *)blob.at, (int)blob.len);
	if (n < 16)
		return err_set(err, ERR_CONFIG, "the key is not base64");
	size_t len = (size_t)n;
	for (size_t i = blob.len; i > 0 && blob.at[i - 1] == '='; i--)
		len--;
	const struct digest d = digest_of((struct str){(const char *)raw, len});
	EVP_EncodeBlock(sum, d.at, DIGEST_BYTES);
	sum[43] = '\0'; /* 32 bytes are 43 digits and one = */
	char tail[56] = "";
	size_t used = 0;
	for (size_t i = 0; i < comment.len && used < sizeof tail - 1; i++)
		if (isgraph((unsigned char)comment.at[i]))
			tail[used++] = comment.at[i];
	snprintf(k->principal, sizeof k->principal, "SHA256:%s%s%s", (const char *)sum,
		 used ? " " : "", tail);
	return 0;
}

int
keys_parse_line(struct str line, struct key *out, struct err *err)
{
	struct key k = {.role = PRINCIPAL_ORCHESTRATOR};

	while (line.len && strchr(" \t\r\n", line.at[line.len - 1]))
		line.len--;
	struct str rest = line;
	struct str word = cut_word(&rest);
	if (word.len == 0 || word.at[0] == '#')
		return 0;
	if (!is_key_type(word)) {
		if (parse_options(word, &k, err) < 0)
			return -1;
		word = cut_word(&rest);
		if (!is_key_type(word))
			return err_set(err, ERR_CONFIG, "not a kind of key: %.*s",
				       (int)(word.len > 60 ? 60 : word.len), word.at);
	}
	const struct str blob = cut_word(&rest);
	if (blob.len < 16 || blob.len > KEY_BLOB_MAX_BYTES)
		return err_set(err, ERR_CONFIG, "a key of %zu bytes", blob.len);
	if (name_principal(&k, blob, rest, err) < 0)
		return -1;
	k.blob = xstrndup(blob);
	*out = k;
	return 1;
}

static void
forget(struct keys *k)
{
	for (size_t i = 0; i < k->n; i++)
		free(k->list[i].blob);
	free(k->list);
	k->list = NULL;
	k->n = 0;
}

static void
reload(struct keys *k)
{
	auto_buf text = BUF_MAX(KEYS_FILE_MAX_BYTES);
	struct err err;
	struct stat st;

	if (fstatat(k->dir, "authorized_keys", &st, AT_SYMLINK_NOFOLLOW) < 0) {
		forget(k);
		k->loads += k->loaded;
		k->sum = digest_of((struct str){"", 0});
		k->loaded = false;
		return;
	}
	if (k->loaded && st.st_mtim.tv_sec == k->mtime.tv_sec &&
	    st.st_mtim.tv_nsec == k->mtime.tv_nsec && st.st_size == k->size)
		return;
	if (path_read(k->dir, "authorized_keys", &text, &err) < 0) {
		log_err(&err, "authorized_keys stays as it was");
		return;
	}
	forget(k);
	k->loads++;
	k->sum = digest_of(buf_view(&text));
	k->list = xnew(KEYS_MAX, sizeof *k->list); /* untouched pages cost nothing */
	struct str rest = buf_view(&text), line;
	for (unsigned n = 1; str_cut(&rest, '\n', &line) && k->n < KEYS_MAX; n++) {
		const int got = keys_parse_line(line, &k->list[k->n], &err);
		if (got < 0)
			log_err(&err, "authorized_keys line %u is not used", n);
		k->n += got > 0;
	}
	k->mtime = st.st_mtim;
	k->size = st.st_size;
	k->loaded = true;
}

const struct key *
keys_find(struct keys *k, struct str text)
{
	struct str type, rest = text;

	reload(k);
	if (!str_cut(&rest, ' ', &type) || !rest.at)
		return NULL;
	for (size_t i = 0; i < k->n; i++)
		if (str_is(rest, k->list[i].blob))
			return &k->list[i];
	return NULL;
}

void
keys_fingerprint(struct str text, char out[128])
{
	struct key k = {.role = PRINCIPAL_NOBODY};
	struct str type;
	struct err ignored;

	out[0] = '\0';
	if (str_cut(&text, ' ', &type) && text.at && text.len <= KEY_BLOB_MAX_BYTES &&
	    name_principal(&k, text, (struct str){"", 0}, &ignored) == 0)
		snprintf(out, 128, "%s", k.principal);
}

const struct key *
keys_find_principal(struct keys *k, const char *principal)
{
	reload(k);
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
	auto_buf text = BUF_MAX(KEY_BLOB_MAX_BYTES);

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
	*k = (struct keys){.dir = -1, .host = BUF_MAX(KEY_BLOB_MAX_BYTES)};
	k->dir = path_open_dir(state_dir, "keys", 0700, err);
	if (k->dir < 0)
		return err_add(err, "%s/keys", state_path);
	if (make_key(k, "host_ed25519", "berth host key", err) < 0 ||
	    make_key(k, "operator", "berth operator", err) < 0 || authorize_operator(k, err) < 0 ||
	    path_read(k->dir, "host_ed25519", &k->host, err) < 0) {
		keys_close(k);
		return -1;
	}
	reload(k);
	return 0;
}

void
keys_close(struct keys *k)
{
	forget(k);
	buf_free(&k->host);
	fd_close(&k->dir);
}
