/* The session's name, as its programs ask for it: of the kernel, and of /etc/hosts. Without the
 * second, `sudo` waits and warns, `hostname -f` fails and a JVM finds no address of its own.
 *
 * Invariants
 *  1. /etc/hosts gets one line more when no line of it has the name; what is in it stays;
 *  2. what stands there in place of a file (a link, a pipe, a directory, more than fits here) is
 *     left alone: a session starts without that line as well as with it;
 *  3. no link is followed on the way: an fd of the launch must not be reached through /proc.
 *
 * It is the workspace's own file, not a mount over it: an edit of the session is kept by a pause,
 * and editors may replace it. It runs before any process of the session does.
 * Never: allocates (it runs behind a clone), waits. */
#include "names.h"
#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { HOSTS_MAX_BYTES = 64 << 10, LINE_MAX_BYTES = 192 };

static const char hosts_path[] = "etc/hosts";
static const char first_lines[] = "127.0.0.1\tlocalhost\n"
				  "::1\tlocalhost ip6-localhost ip6-loopback\n";

static int
open_hosts(uint64_t flags, uint64_t mode)
{
	struct open_how how = {
	    .flags = flags | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC,
	    .mode = mode,
	    .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
	};
	return (int)syscall(SYS_openat2, AT_FDCWD, hosts_path, &how, sizeof how);
}

static bool
is_space(char c)
{
	return c == ' ' || c == '\t' || c == '\r';
}

static bool
next_word(struct str *line, struct str *out)
{
	size_t from = 0;
	while (from < line->len && is_space(line->at[from]))
		from++;
	size_t to = from;
	while (to < line->len && !is_space(line->at[to]))
		to++;
	*out = (struct str){line->at + from, to - from};
	*line = (struct str){line->at + to, line->len - to};
	return out->len > 0;
}

/* Whether a line of the file gives `name` an address. */
static bool
knows_name(struct str text, const char *name)
{
	struct str line, word, ignored;

	while (text.len && str_cut(&text, '\n', &line)) {
		struct str rest = line;
		str_cut(&rest, '#', &line);
		if (!next_word(&line, &ignored))
			continue;
		while (next_word(&line, &word))
			if (str_is(word, name))
				return true;
	}
	return false;
}

static void
add_line(const char *name, bool ends_in_line, bool made)
{
	char text[LINE_MAX_BYTES];
	struct err ignored;

	const int n = snprintf(text, sizeof text, "%s%s127.0.1.1\t%s\n", made ? first_lines : "",
			       ends_in_line ? "" : "\n", name);
	if (n < 0 || (size_t)n >= sizeof text)
		return;
	auto_close int fd = open_hosts(O_WRONLY | O_APPEND | (made ? O_CREAT | O_EXCL : 0),
				       made ? 0644 : 0);
	if (fd >= 0 && fd_write_all(fd, text, (size_t)n, &ignored) < 0)
		return; /* a full disk: the same as a file that is left alone */
}

static void
add_to_hosts(const char *name)
{
	static char text[HOSTS_MAX_BYTES];
	struct stat st;

	auto_close int fd = open_hosts(O_RDONLY, 0);
	if (fd < 0 && errno == ENOENT)
		add_line(name, true, true);
	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) ||
	    st.st_size > HOSTS_MAX_BYTES)
		return;
	const ssize_t n = pread(fd, text, sizeof text, 0);
	if (n < 0 || knows_name((struct str){text, (size_t)n}, name))
		return;
	add_line(name, n == 0 || text[n - 1] == '\n', false);
}

int
names_set(struct inside *in)
{
	in->at = in->plan->hostname;
	if (sethostname(in->at, strlen(in->at)) < 0)
		return -1;
	add_to_hosts(in->plan->hostname);
	return 0;
}
