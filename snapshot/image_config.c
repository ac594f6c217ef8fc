/* What an OCI config says of calls, judged before it counts: texts are bounded, the user is looked
 * up once, in the image's own files, and is a number from then on. */
#include "base/fd.h"
#include "base/num.h"
#include "base/path.h"
#include "image.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/xattr.h>

enum { ACCOUNTS_MAX_BYTES = 4 << 20, ID_MAX = 65535 };

/* ---- the config ---- */

static int
take_env(const json_t *list, struct image *i, struct err *err)
{
	for (size_t k = 0; k < json_array_size(list); k++) {
		const char *text = json_string_value(json_array_get(list, k));
		if (!text || *text == '=' || !strchr(text, '='))
			return err_set(err, ERR_CORRUPT, "a variable of Env without a name");
		buf_add(&i->env, text, strlen(text) + 1);
	}
	if (buf_bad(&i->env))
		return err_set(err, ERR_CORRUPT, "Env is longer than %d bytes",
			       IMAGE_ENV_MAX_BYTES);
	return 0;
}

static int
take_text(const json_t *config, const char *key, char *out, size_t size, struct err *err)
{
	const char *text = json_string_value(json_object_get(config, key));

	if (text && str_copy(str_of(text), out, size, err) < 0)
		return err_set(err, ERR_CORRUPT, "%s is longer than %zu bytes", key, size - 1);
	return 0;
}

static int
check_diff_ids(const json_t *list, const struct image *i, struct err *err)
{
	if (json_array_size(list) != i->n_layers)
		return err_set(err, ERR_CORRUPT, "%zu layers, but %zu diff_ids in the config",
			       i->n_layers, json_array_size(list));
	for (size_t k = 0; k < i->n_layers; k++) {
		const char *text = json_string_value(json_array_get(list, k));
		struct digest d;
		if (!text || digest_parse(str_of(text), &d, err) < 0)
			return err_set(err, ERR_CORRUPT, "a diff_id that is no sha256");
		if (!digest_equal(&d, &i->layers[k]))
			return err_set(err, ERR_CORRUPT, "layer %zu unpacks to %.12s, not to %.12s",
				       k + 1, digest_text(&i->layers[k]).text,
				       digest_text(&d).text);
	}
	return 0;
}

int
image_take_config(struct str text, struct image *i, struct err *err)
{
	json_t *j = json_loadb(text.at ? text.at : "", text.len, 0, NULL);
	if (!json_is_object(j)) {
		json_decref(j);
		return err_set(err, ERR_CORRUPT, "the image's config is not JSON");
	}
	const json_t *config = json_object_get(j, "config");
	int result =
	    check_diff_ids(json_object_get(json_object_get(j, "rootfs"), "diff_ids"), i, err);
	if (result == 0)
		result = take_env(json_object_get(config, "Env"), i, err);
	if (result == 0)
		result = take_text(config, "WorkingDir", i->cwd, sizeof i->cwd, err);
	if (result == 0)
		result = take_text(config, "User", i->user, sizeof i->user, err);
	json_decref(j);
	if (result == 0 && i->cwd[0] && i->cwd[0] != '/')
		return err_set(err, ERR_CORRUPT, "WorkingDir %s is not absolute", i->cwd);
	return result;
}

/* ---- the user ---- */

/* A file of /etc as the stack of layers shows it, from the top; absent is empty. */
static int
read_etc(int cache, const struct image *i, const char *name, struct buf *out, struct err *err)
{
	struct err ignored;
	auto_close int images = path_open(cache, "images", O_RDONLY | O_DIRECTORY, err);

	for (size_t k = i->n_layers; images >= 0 && k-- > 0;) {
		char path[128], mark[2];
		struct stat st;
		snprintf(path, sizeof path, "%s/etc", digest_text(&i->layers[k]).text);
		auto_close int etc = path_open(images, path, O_RDONLY | O_DIRECTORY, &ignored);
		if (etc < 0 && errno == ENOENT)
			continue;
		if (etc < 0 || fstatat(etc, name, &st, AT_SYMLINK_NOFOLLOW) == 0)
			return etc < 0 || !S_ISREG(st.st_mode) ? 0 : path_read(etc, name, out, err);
		if (fgetxattr(etc, "user.overlay.opaque", mark, sizeof mark) > 0)
			return 0;
	}
	return images < 0 ? -1 : 0;
}

/* The line of passwd or group whose name, or number, is `who`; false: none. fields: of the line. */
static bool
find_account(struct str file, struct str who, struct str fields[7])
{
	struct str line;

	while (str_cut(&file, '\n', &line)) {
		size_t n = 0;
		for (size_t k = 0; k < 7; k++)
			fields[k] = (struct str){"", 0};
		while (n < 7 && str_cut(&line, ':', &fields[n]))
			n++;
		if (n >= 3 && (str_equal(fields[0], who) || str_equal(fields[2], who)))
			return true;
	}
	return false;
}

static int
take_id(struct str text, uint32_t *out, struct err *err)
{
	uint64_t n;

	if (num_parse(text, 0, ID_MAX, &n, err) < 0)
		return -1;
	*out = (uint32_t)n;
	return 0;
}

static int
unknown(const struct image *i, const char *file, struct err *err)
{
	return err_set(err, ERR_CORRUPT,
		       "User %s is neither a number up to %d nor in the image's /etc/%s", i->user,
		       ID_MAX, file);
}

int
image_find_user(int cache, struct image *i, struct err *err)
{
	auto_buf passwd = BUF_MAX(ACCOUNTS_MAX_BYTES), group = BUF_MAX(ACCOUNTS_MAX_BYTES);
	struct str rest = str_of(i->user[0] ? i->user : "0"), who, fields[7];
	struct err ignored;

	if (read_etc(cache, i, "passwd", &passwd, err) < 0 ||
	    read_etc(cache, i, "group", &group, err) < 0)
		return err_add(err, "look up the image's user");
	str_cut(&rest, ':', &who);
	if (find_account(buf_view(&passwd), who, fields)) {
		if (take_id(fields[2], &i->uid, &ignored) < 0 ||
		    take_id(fields[3], &i->gid, &ignored) < 0)
			return unknown(i, "passwd", err);
		if (fields[5].len && fields[5].at[0] == '/' &&
		    str_copy(fields[5], i->home, sizeof i->home, err) < 0)
			return -1;
	} else {
		if (take_id(who, &i->uid, &ignored) < 0)
			return unknown(i, "passwd", err);
		if (i->uid)
			snprintf(i->home, sizeof i->home, "/");
	}
	if (!rest.at)
		return 0;
	const bool listed = find_account(buf_view(&group), rest, fields);
	if (take_id(listed ? fields[2] : rest, &i->gid, &ignored) < 0)
		return unknown(i, "group", err);
	return 0;
}

/* ---- the facts ---- */

static json_t *
facts_of(const struct image *i)
{
	json_t *layers = json_array(), *env = json_array();
	const char *const end = i->env.at + i->env.len;

	for (size_t k = 0; k < i->n_layers; k++)
		json_array_append_new(layers,
				      json_sprintf("sha256:%s", digest_text(&i->layers[k]).text));
	for (const char *at = i->env.at; at && at < end; at += strlen(at) + 1)
		json_array_append_new(env, json_string(at));
	return json_pack("{s:i,s:o,s:o,s:s,s:s,s:s,s:i,s:i,s:I,s:I,s:I}", "version", 1, "layers",
			 layers, "env", env, "cwd", i->cwd, "user", i->user, "home", i->home, "uid",
			 (int)i->uid, "gid", (int)i->gid, "bytes", (json_int_t)i->bytes, "entries",
			 (json_int_t)i->entries, "dropped", (json_int_t)i->dropped);
}

int
image_format_facts(struct image *i, struct buf *out, struct err *err)
{
	json_t *j = facts_of(i);
	char *text = j ? json_dumps(j, JSON_COMPACT | JSON_SORT_KEYS) : NULL;

	if (text)
		buf_text(out, text);
	json_decref(j);
	free(text);
	if (!text || buf_bad(out))
		return err_set(err, ERR_CORRUPT, "the image's facts are not text");
	i->content = digest_of(buf_view(out));
	return 0;
}
