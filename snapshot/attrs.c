#include "attrs.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/xattr.h>

static const char OVERLAY[] = "user.overlay.", OVERLAY_TRUSTED[] = "trusted.overlay.";
static const char ESCAPED[] = "user.overlay.overlay.";
static const char DEFAULT_ACL[] = "system.posix_acl_default";
enum { LIST_MAX_BYTES = 65536 }; /* XATTR_LIST_MAX */

static bool
begins(const char *s, const char *front)
{
	return strncmp(s, front, strlen(front)) == 0;
}

bool
attrs_may_travel(const char *name)
{
	return begins(name, "user.") || strcmp(name, "security.capability") == 0 ||
	       strcmp(name, DEFAULT_ACL) == 0 || strcmp(name, "system.posix_acl_access") == 0;
}

void
attrs_done(struct attrs *a)
{
	for (size_t i = 0; i < a->n; i++) {
		free(a->at[i].name);
		free(a->at[i].value);
	}
	free(a->at);
	*a = (struct attrs){0};
}

static int
insert(struct attrs *a, const char *name, struct str value, struct err *err)
{
	size_t at = 0;

	if (a->n >= ATTRS_MAX || value.len > ATTR_VALUE_MAX_BYTES)
		return err_set(err, ERR_CORRUPT, "more extended attributes than a file can have");
	while (at < a->n && strcmp(a->at[at].name, name) < 0)
		at++;
	if (at < a->n && strcmp(a->at[at].name, name) == 0) {
		if (a->at[at].n == value.len && memcmp(a->at[at].value, value.at, value.len) == 0)
			return 0; /* libarchive writes each in two forms */
		return err_set(err, ERR_CORRUPT, "the extended attribute %s is there twice", name);
	}
	struct attr *grown = realloc(a->at, (a->n + 1) * sizeof *grown);
	char *copy = try_new(1, value.len + 1);
	if (grown)
		a->at = grown;
	if (!grown || !copy) {
		free(copy);
		return err_set(err, ERR_UNAVAILABLE, "no memory for extended attributes");
	}
	if (value.len)
		memcpy(copy, value.at, value.len);
	memmove(grown + at + 1, grown + at, (a->n - at) * sizeof *grown);
	grown[at] = (struct attr){xstrdup(name), copy, value.len};
	a->n++;
	return 0;
}

int
attrs_add(struct attrs *a, struct str name, struct str value, struct err *err)
{
	char text[XATTR_NAME_MAX_BYTES];

	if (str_copy(name, text, sizeof text, err) < 0 || !attrs_may_travel(text))
		return err_set(err, ERR_CORRUPT,
			       "an extended attribute that no session can have: "
			       "%.*s",
			       (int)(name.len < 100 ? name.len : 100), name.at);
	return insert(a, text, value, err);
}

/* The value into a buffer of ATTR_VALUE_MAX_BYTES: its length, 0 with *gone when it vanished. */
static ssize_t
read_value(int fd, const char *name, char *value, bool *gone, struct err *err)
{
	const ssize_t n = fgetxattr(fd, name, value, ATTR_VALUE_MAX_BYTES);
	*gone = n < 0 && errno == ENODATA;
	if (n < 0 && !*gone)
		return err_sys(err, errno, "read the extended attribute %s", name);
	return *gone ? 0 : n;
}

static unsigned
mark_of(const char *rest, const char *value, size_t n)
{
	if (strcmp(rest, "opaque") == 0 && n == 1 && value[0] == 'y')
		return MARK_OPAQUE;
	return strcmp(rest, "whiteout") == 0 ? MARK_WHITEOUT : 0;
}

static int
load_one(int fd, const char *name, char *value, struct attrs *out, unsigned *marks, struct err *err)
{
	const bool escaped = begins(name, ESCAPED);
	const char *mark = escaped                         ? NULL
			   : begins(name, OVERLAY)         ? name + strlen(OVERLAY)
			   : begins(name, OVERLAY_TRUSTED) ? name + strlen(OVERLAY_TRUSTED)
							   : NULL;
	bool gone;

	if (!mark && !attrs_may_travel(name))
		return 0;
	const ssize_t n = read_value(fd, name, value, &gone, err);
	if (n < 0 || gone)
		return (int)n;
	if (mark) {
		*marks |= mark_of(mark, value, (size_t)n);
		return 0;
	}
	if (!escaped)
		return insert(out, name, (struct str){value, (size_t)n}, err);
	char plain[XATTR_NAME_MAX_BYTES + 16];
	snprintf(plain, sizeof plain, "%s%s", OVERLAY, name + strlen(ESCAPED));
	return insert(out, plain, (struct str){value, (size_t)n}, err);
}

int
attrs_load(int fd, struct attrs *out, unsigned *out_marks, struct err *err)
{
	*out = (struct attrs){0};
	*out_marks = 0;
	char small[1024];
	const char *list = small;
	auto_free char *large = NULL;
	ssize_t n = flistxattr(fd, small, sizeof small);
	if (n < 0 && errno == ERANGE) {
		list = large = xnew(1, LIST_MAX_BYTES);
		n = flistxattr(fd, large, LIST_MAX_BYTES);
	}
	if (n < 0)
		return errno == ENOTSUP ? 0 : err_sys(err, errno, "list extended attributes");
	if (n == 0)
		return 0;
	auto_free char *value = xnew(1, ATTR_VALUE_MAX_BYTES);
	for (const char *name = list; name < list + n; name += strlen(name) + 1)
		if (load_one(fd, name, value, out, out_marks, err) < 0) {
			attrs_done(out);
			return -1;
		}
	return 0;
}

/* What is on disk and not wanted, but for marks. */
static int
drop_others(int fd, const struct attrs *a, struct err *err)
{
	auto_attrs have = {0};
	unsigned marks;

	if (attrs_load(fd, &have, &marks, err) < 0)
		return -1;
	for (size_t i = 0; i < have.n; i++) {
		bool wanted = false;
		for (size_t k = 0; k < a->n && !wanted; k++)
			wanted = strcmp(a->at[k].name, have.at[i].name) == 0;
		char name[XATTR_NAME_MAX_BYTES + 16];
		const bool escape = begins(have.at[i].name, OVERLAY);
		snprintf(name, sizeof name, "%s%s", escape ? ESCAPED : "",
			 have.at[i].name + (escape ? strlen(OVERLAY) : 0));
		if (!wanted && fremovexattr(fd, name) < 0 && errno != ENODATA)
			return err_sys(err, errno, "remove the extended attribute %s", name);
	}
	return 0;
}

int
attrs_store(int fd, const struct attrs *a, bool exact, bool lenient, struct err *err)
{
	if (exact && drop_others(fd, a, err) < 0)
		return -1;
	for (size_t i = 0; i < a->n; i++) {
		const struct attr *one = &a->at[i];
		char name[XATTR_NAME_MAX_BYTES + 16];
		const bool escape = begins(one->name, OVERLAY);
		snprintf(name, sizeof name, "%s%s", escape ? ESCAPED : "",
			 one->name + (escape ? strlen(OVERLAY) : 0));
		if (fsetxattr(fd, name, one->value, one->n, 0) == 0)
			continue;
		const bool ours = begins(name, "user.");
		if (!lenient || ours || (errno != EPERM && errno != EINVAL && errno != EACCES))
			return err_sys(err, errno, "set the extended attribute %s", name);
	}
	return 0;
}

int
attrs_mark_opaque(int fd, struct err *err)
{
	if (fsetxattr(fd, "user.overlay.opaque", "y", 1, 0) < 0)
		return err_sys(err, errno, "mark a directory as opaque");
	return 0;
}

int
attrs_mark_whiteouts(int fd, struct err *err)
{
	if (fsetxattr(fd, "user.overlay.origin", "", 0, 0) < 0)
		return err_sys(err, errno, "mark a directory with whiteouts");
	return 0;
}

int
attrs_drop_default_acl(int fd, struct err *err)
{
	if (fremovexattr(fd, DEFAULT_ACL) < 0 && errno != ENODATA && errno != ENOTSUP)
		return err_sys(err, errno, "take off a default ACL");
	return 0;
}
