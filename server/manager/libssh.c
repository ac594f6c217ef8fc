#include "libssh.h"
#include "base/fd.h"
#include "base/path.h"

#include <ctype.h>
#include <fcntl.h>

enum { STATUS_MAX_BYTES = 64 << 20 };

/* ---- the order of versions (Debian policy, section 5.6.12) ---- */

/* ~ is before the end, the end before letters, letters before all else. */
static int
order(struct str s)
{
	if (s.len == 0 || isdigit((unsigned char)s.at[0]))
		return 0;
	if (s.at[0] == '~')
		return -1;
	return isalpha((unsigned char)s.at[0]) ? s.at[0] : s.at[0] + 256;
}

static void
drop(struct str *s)
{
	s->at++;
	s->len--;
}

static bool
has_digit(struct str s)
{
	return s.len && isdigit((unsigned char)s.at[0]);
}

static int
compare_digits(struct str *a, struct str *b)
{
	int difference = 0;

	while (a->len && a->at[0] == '0')
		drop(a);
	while (b->len && b->at[0] == '0')
		drop(b);
	while (has_digit(*a) && has_digit(*b)) {
		if (!difference)
			difference = a->at[0] - b->at[0];
		drop(a);
		drop(b);
	}
	return has_digit(*a) ? 1 : has_digit(*b) ? -1 : difference;
}

static int
compare_part(struct str a, struct str b)
{
	while (a.len || b.len) {
		while ((a.len && !has_digit(a)) || (b.len && !has_digit(b))) {
			if (order(a) != order(b))
				return order(a) - order(b);
			if (a.len)
				drop(&a);
			if (b.len)
				drop(&b);
		}
		const int difference = compare_digits(&a, &b);
		if (difference)
			return difference;
	}
	return 0;
}

/* What stands behind the last - is the package's own; no epochs, libssh has none. */
static struct str
cut_revision(struct str *version)
{
	for (size_t i = version->len; i > 0; i--)
		if (version->at[i - 1] == '-') {
			const struct str revision = {version->at + i, version->len - i};
			version->len = i - 1;
			return revision;
		}
	return (struct str){"", 0};
}

int
libssh_compare(struct str a, struct str b)
{
	const struct str a_revision = cut_revision(&a), b_revision = cut_revision(&b);
	const int difference = compare_part(a, b);

	return difference ? difference : compare_part(a_revision, b_revision);
}

/* ---- what dpkg knows ---- */

static struct str
field(struct str stanza, const char *name)
{
	struct str line;

	while (str_cut(&stanza, '\n', &line))
		if (str_starts(line, name))
			return (struct str){line.at + strlen(name), line.len - strlen(name)};
	return (struct str){"", 0};
}

/* The version of the installed package; empty where there is none. */
static struct str
find_version(struct str status)
{
	while (status.len) {
		const char *end = memmem(status.at, status.len, "\n\n", 2);
		const size_t n = end ? (size_t)(end - status.at) + 1 : status.len;
		const struct str stanza = {status.at, n}, name = field(stanza, "Package: ");
		if ((str_is(name, "libssh-4") || str_is(name, "libssh-4t64")) &&
		    str_is(field(stanza, "Status: "), "install ok installed"))
			return field(stanza, "Version: ");
		status.at += n;
		status.len -= n;
		while (status.len && status.at[0] == '\n')
			drop(&status);
	}
	return (struct str){"", 0};
}

int
libssh_check(const char *dir, struct buf *out, struct err *err)
{
	static const char least[] = LIBSSH_PACKAGE_LEAST;
	auto_buf status = BUF_MAX(STATUS_MAX_BYTES);
	auto_close int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct err ignored;
	struct str v = {"", 0};

	if (fd >= 0 && path_read(fd, "status", &status, &ignored) == 0)
		v = find_version(buf_view(&status));
	if (v.len == 0) {
		buf_fmt(out,
			"of a version that is not known here: dpkg does not tell; known holes "
			"are closed in Debian's %s",
			least);
		return 0;
	}
	if (libssh_compare(v, STR_LIT(LIBSSH_PACKAGE_LEAST)) < 0) {
		err_set(err, ERR_UNAVAILABLE, "libssh %.*s has known holes, closed in %s",
			(int)v.len, v.at, least);
		return err_hint(err, "apt-get update && apt-get install libssh-4");
	}
	buf_fmt(out, "%.*s", (int)v.len, v.at);
	if (!str_starts(v, "0.10."))
		buf_text(out, ", which is newer than what berth was tested with");
	return 0;
}
