/* The session's name, as its programs ask for it: of the kernel, and of /etc/hosts. Without the
 * second, `sudo` waits and warns, `hostname -f` fails and a JVM finds no address of its own.
 *
 * Invariants
 *  1. /etc/hosts gets one line more when no line of it has the name; what is in it stays, and a
 *     crash in between leaves it as it was;
 *  2. what stands there in place of a file (a link, a pipe, a directory, more than fits here) is
 *     left alone: a session starts without that line as well as with it;
 *  3. no link is followed on the way: an fd of the launch must not be reached through /proc.
 *
 * It is the workspace's own file, not a mount over it: an edit of the session is kept by a pause,
 * and editors may replace it. It is replaced here as a whole too: an append to a layer's file makes
 * overlayfs copy and sync it (0.1 ms against 3 ms and more on ext4).
 * It runs before any process of the session does. Never: allocates (behind a clone), waits. */
#include "hostname.h"
#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { HOSTS_MAX_BYTES = 64 << 10, LINE_MAX_BYTES = 96 };

static const char file_name[] = "hosts", new_name[] = ".hosts.berth";
static const char first_lines[] = "127.0.0.1\tlocalhost\n"
				  "::1\tlocalhost ip6-localhost ip6-loopback\n";

/* A file as it is to be written: one at a time, and no memory can be asked for here. */
struct hosts {
	char text[HOSTS_MAX_BYTES + LINE_MAX_BYTES];
	size_t len;
	uid_t uid;
	gid_t gid;
	mode_t mode;
};

static int
open_beneath(int dir, const char *name, uint64_t flags)
{
	struct open_how how = {
	    .flags = flags | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC,
	    .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
	};
	return (int)syscall(SYS_openat2, dir, name, &how, sizeof how);
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

/* 0, or -1: there is something that is to be left alone. */
static int
load(int etc, struct hosts *h)
{
	struct stat st;

	h->len = sizeof first_lines - 1;
	h->mode = 0644;
	h->uid = h->gid = 0;
	auto_close int fd = open_beneath(etc, file_name, O_RDONLY);
	if (fd < 0 && errno == ENOENT) {
		memcpy(h->text, first_lines, h->len);
		return 0;
	}
	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size > HOSTS_MAX_BYTES)
		return -1;
	const ssize_t n = pread(fd, h->text, HOSTS_MAX_BYTES, 0);
	if (n < 0)
		return -1;
	h->len = (size_t)n;
	h->uid = st.st_uid;
	h->gid = st.st_gid;
	h->mode = st.st_mode & 07777;
	return 0;
}

/* False: the name is too long for a line, which no name of a session is. */
static bool
add_line(struct hosts *h, const char *name)
{
	const bool ends = h->len == 0 || h->text[h->len - 1] == '\n';
	const int n =
	    snprintf(h->text + h->len, LINE_MAX_BYTES, "%s127.0.1.1\t%s\n", ends ? "" : "\n", name);

	if (n < 0 || n >= LINE_MAX_BYTES)
		return false;
	h->len += (size_t)n;
	return true;
}

static int
write_new(int etc, const struct hosts *h)
{
	struct err ignored;

	unlinkat(etc, new_name, 0); /* of a start that was cut off */
	auto_close int fd =
	    openat(etc, new_name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0 || fchown(fd, h->uid, h->gid) < 0 || fchmod(fd, h->mode) < 0)
		return -1;
	return fd_write_all(fd, h->text, h->len, &ignored);
}

static void
add_to_hosts(const char *name)
{
	static struct hosts h;

	auto_close int etc = open_beneath(AT_FDCWD, "etc", O_RDONLY | O_DIRECTORY);
	if (etc < 0 || load(etc, &h) < 0 || knows_name((struct str){h.text, h.len}, name) ||
	    !add_line(&h, name))
		return;
	if (write_new(etc, &h) < 0 || renameat(etc, new_name, etc, file_name) < 0)
		unlinkat(etc, new_name, 0); /* a full disk: as if it had been left alone */
}

int
hostname_set_to(const char *name)
{
	if (sethostname(name, strlen(name)) < 0)
		return -1;
	if (*name)
		add_to_hosts(name);
	return 0;
}

int
hostname_set(struct inside *in)
{
	in->at = in->plan->hostname;
	return hostname_set_to(in->at);
}
