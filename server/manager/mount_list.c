#include "mount_list.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/path.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* Not as a destination, nor what lies beneath, nor what holds one of them. From /bin on they are
 * links in most images, which a directory would have to take the place of. */
static const char *const kept_free[] = {
    "/proc", "/sys",   "/dev",   "/run/berth", "/bin",     "/sbin",
    "/lib",  "/lib32", "/lib64", "/libx32",    "/var/run", "/var/lock",
};

#define COUNT(a) (sizeof(a) / sizeof *(a))

/* ---- paths ---- */

/* Absolute and plain: no "." or "..", nothing empty, no control character. A slash at the end is
 * taken off. */
static int
parse_path(struct str text, const char *what, char *out, size_t size, struct err *err)
{
	struct str rest, part;

	if (text.len == 0 || text.at[0] != '/')
		return err_set(err, ERR_USAGE, "the %s is not an absolute path", what);
	if (text.len > 1 && text.at[text.len - 1] == '/')
		text.len--;
	for (size_t i = 0; i < text.len; i++)
		if ((unsigned char)text.at[i] < ' ' || text.at[i] == 0x7f)
			return err_set(err, ERR_USAGE, "the %s holds a control character", what);
	rest = (struct str){text.at + 1, text.len - 1};
	while (rest.len && str_cut(&rest, '/', &part))
		if (part.len == 0 || str_is(part, ".") || str_is(part, "..") || part.len > 255)
			return err_set(err, ERR_USAGE, "the %s is not a plain path: %.*s", what,
				       (int)(text.len > 80 ? 80 : text.len), text.at);
	if (text.len >= size)
		return err_set(err, ERR_USAGE, "the %s is longer than %zu bytes", what, size - 1);
	return str_copy(text, out, size, err);
}

/* Whether `path` is `top` or lies beneath it: by name. */
static bool
is_within(const char *path, const char *top)
{
	const size_t n = strlen(top);

	if (n == 1)
		return true; /* "/" */
	return strncmp(path, top, n) == 0 && (path[n] == '/' || path[n] == '\0');
}

static bool
overlap(const char *a, const char *b)
{
	return is_within(a, b) || is_within(b, a);
}

/* ---- one mount ---- */

static int
check_target(const char *target, bool image_host, struct err *err)
{
	for (size_t i = 0; i < COUNT(kept_free); i++)
		if (overlap(target, kept_free[i]))
			return err_set(err, ERR_USAGE, "nothing can be mounted on %s", target);
	if (image_host && overlap(target, "/usr"))
		return err_set(err, ERR_USAGE,
			       "nothing can be mounted on %s: image host has the node's /usr there",
			       target);
	return 0;
}

int
mount_parse(struct str text, bool image_host, struct mount_row *out, struct err *err)
{
	struct mount_row row = {.read_only = false};
	struct str source, target = {NULL, 0};

	str_cut(&text, ':', &source);
	if (!text.at || !str_cut(&text, ':', &target) || (text.at && !str_is(text, "ro"))) {
		err_set(err, ERR_USAGE, "not of the form SRC:DST or SRC:DST:ro");
		return err_hint(err, "such as --mount /srv/data:/data:ro");
	}
	row.read_only = text.at != NULL;
	if (parse_path(source, "source", row.source, sizeof row.source, err) < 0 ||
	    parse_path(target, "destination", row.target, sizeof row.target, err) < 0 ||
	    check_target(row.target, image_host, err) < 0)
		return -1;
	*out = row;
	return 0;
}

void
mount_format(const struct mount_row *row, char out[MOUNT_TEXT_BYTES])
{
	snprintf(out, MOUNT_TEXT_BYTES, "%s:%s%s", row->source, row->target,
		 row->read_only ? ":ro" : "");
}

int
mount_check_apart(const struct mount_row *rows, size_t n, const struct mount_row *row,
		  struct err *err)
{
	for (size_t i = 0; i < n; i++)
		if (overlap(rows[i].target, row->target))
			return err_set(err, ERR_USAGE, "the destinations %s and %s overlap",
				       rows[i].target, row->target);
	return 0;
}

/* ---- what is allowed ---- */

static int
take_allowed(struct str text, struct mounts_allowed *out, struct err *err)
{
	struct str path;

	if (out->n == MOUNTS_ALLOWED_MAX)
		return err_set(err, ERR_CONFIG, "more than %d directories", MOUNTS_ALLOWED_MAX);
	str_cut(&text, ':', &path);
	if (text.at && !str_is(text, "ro"))
		return err_set(err, ERR_CONFIG, "not DIR or DIR:ro");
	if (parse_path(path, "directory", out->at[out->n].path, sizeof out->at[out->n].path, err) <
	    0)
		return -1;
	if (path.len == 1)
		return err_set(err, ERR_CONFIG, "not the node's root");
	out->at[out->n++].read_only = text.at != NULL;
	return 0;
}

/* One that is to be read only must not be reached through another that can be written. */
static int
check_no_way_round(const struct mounts_allowed *a, struct err *err)
{
	for (size_t i = 0; i < a->n; i++)
		for (size_t j = 0; j < a->n; j++)
			if (a->at[i].read_only && !a->at[j].read_only &&
			    is_within(a->at[i].path, a->at[j].path))
				return err_set(err, ERR_CONFIG,
					       "%s is read-only, and %s, which holds it, is not",
					       a->at[i].path, a->at[j].path);
	return 0;
}

int
mounts_allowed_parse(struct str text, struct mounts_allowed *out, struct err *err)
{
	struct mounts_allowed all = {.n = 0};
	struct str rest = text, one;
	int result = 0;

	while (result == 0 && text.len && str_cut(&rest, ',', &one))
		result = take_allowed(str_trim(one), &all, err);
	if (result == 0)
		result = check_no_way_round(&all, err);
	if (result < 0) {
		err->code = ERR_CONFIG;
		err_hint(err, "such as: mounts = /srv/data, /opt/tools:ro");
		return err_add(err, "mounts");
	}
	*out = all;
	return 0;
}

void
mounts_allowed_warn(const struct mounts_allowed *allowed)
{
	for (size_t i = 0; i < allowed->n; i++) {
		struct statvfs fs;
		const char *path = allowed->at[i].path;
		if (!allowed->at[i].read_only && statvfs(path, &fs) == 0 &&
		    !(fs.f_flag & ST_NOSUID))
			log_line(
			    "mounts: sessions can write to %s, which this node has not mounted "
			    "nosuid: keep it from users of the node, or mount it nosuid",
			    path);
	}
}

/* ---- its directory ---- */

/* The allowed directory above a source, or NULL. Where several are, they agree on read_only but for
 * a read-only one above: that one counts. */
static const char *
find_allowed(const struct mounts_allowed *a, const struct mount_row *row, bool *read_only)
{
	const char *found = NULL;

	*read_only = row->read_only;
	for (size_t i = 0; i < a->n; i++) {
		if (!is_within(row->source, a->at[i].path))
			continue;
		if (!found || strlen(found) > strlen(a->at[i].path))
			found = a->at[i].path;
		*read_only = *read_only || a->at[i].read_only;
	}
	return found;
}

bool
mount_is_read_only(const struct mounts_allowed *allowed, const struct mount_row *row)
{
	bool read_only;

	find_allowed(allowed, row, &read_only);
	return read_only;
}

static int
say_absent(const struct mount_row *row, int why, struct err *err)
{
	if (why == ENOENT || why == ENOTDIR)
		err_set(err, ERR_UNAVAILABLE, "the source of a mount is not there: %s",
			row->source);
	else if (why == ELOOP)
		err_set(err, ERR_UNAVAILABLE,
			"a link stands in the way to the source of a mount: %s", row->source);
	else
		return err_sys(err, why, "open the source of a mount, %s", row->source);
	return err_hint(err, "it must be a directory of the node, by its true path");
}

static int
open_below(const char *top, const struct mount_row *row, struct err *err)
{
	const char *rest = row->source + strlen(top);

	/* The operator's own name, with the operator's links. */
	auto_close int at = open(top, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (at < 0)
		return say_absent(row, errno, err);
	if (!*rest)
		return fd_steal(&at);
	const int fd = path_open(at, rest + 1, O_PATH | O_DIRECTORY, err);
	return fd < 0 ? say_absent(row, errno, err) : fd;
}

int
mount_open(const struct mounts_allowed *allowed, const struct mount_row *row, int state, int run,
	   bool *out_read_only, struct err *err)
{
	const int own[] = {state, run};
	bool read_only;
	const char *top = find_allowed(allowed, row, &read_only);

	if (!top) {
		err_set(err, ERR_DENIED, "the server's configuration allows no mount of %s",
			row->source);
		return err_hint(err, "see the option mounts of berthd.conf");
	}
	auto_close int fd = open_below(top, row, err);
	if (fd < 0)
		return -1;
	for (size_t i = 0; i < COUNT(own); i++) {
		int holds = path_holds(fd, own[i], err);
		if (holds == 0)
			holds = path_holds(own[i], fd, err);
		if (holds < 0)
			return -1;
		if (holds)
			return err_set(err, ERR_DENIED,
				       "%s holds the server's own files, or is of them",
				       row->source);
	}
	*out_read_only = read_only;
	return fd_steal(&fd);
}
