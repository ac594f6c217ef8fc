/* Invariants
 *  1. init resolves nothing: a child does, which holds one pipe and no right that its user has
 *     not, and shares no memory with init;
 *  2. nobody waits for a child: it is ended by its alarm, by the keeper's closing of the pipe, or
 *     by any signal that ends a process of the session;
 *  3. at most RESOLVE_AT_ONCE run;
 *  4. what a child says is as good as any word of the session: the keeper looks at it. */
#include "lookup.h"
#include "reap.h"

#include "base/fd.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { NAME_BYTES = 254, LINE_BYTES = 1024, SERVERS_MAX = 3, DNS_PORT = 53 };

static pid_t children[RESOLVE_AT_ONCE]; /* 0: a free place */

/* ---- in the child ---- */

struct answer {
	size_t n; /* bytes */
	uint8_t bytes[1 + RESOLVE_MOST * (1 + RESOLVE_ADDRESS_BYTES)];
};

static void
add_address(struct answer *a, int family, const void *address)
{
	const size_t each = 1 + RESOLVE_ADDRESS_BYTES;

	if (a->n + each > sizeof a->bytes || (family != AF_INET && family != AF_INET6))
		return;
	uint8_t *at = a->bytes + a->n;
	memset(at, 0, each);
	at[0] = family == AF_INET ? 4 : 6;
	memcpy(at + 1, address, family == AF_INET ? 4 : 16);
	a->bytes[0] = RESOLVE_FOUND;
	a->n += each;
}

/* The family of an address, -1: it is none. */
static int
parse_address(const char *text, uint8_t out[16])
{
	if (inet_pton(AF_INET, text, out) == 1)
		return AF_INET;
	return inet_pton(AF_INET6, text, out) == 1 ? AF_INET6 : -1;
}

/* Cuts the next word off. NULL: there is none. */
static char *
next_word(char **rest)
{
	static const char *const spaces = " \t\r\n";
	char *word = *rest + strspn(*rest, spaces);
	const size_t n = strcspn(word, spaces);

	*rest = word + n + (word[n] != '\0');
	word[n] = '\0';
	return n ? word : NULL;
}

/* The next line up to its comment; of one that is longer, its begin. False: there is none. */
static bool
next_line(FILE *f, char line[LINE_BYTES])
{
	if (!f || !fgets(line, LINE_BYTES, f))
		return false;
	bool whole = strchr(line, '\n') != NULL;
	for (int c; !whole && (c = getc(f)) != EOF;)
		whole = c == '\n';
	line[strcspn(line, "#")] = '\0';
	return true;
}

/* getaddrinfo(3) reads it too, but asks DNS where the name is not there, and a session without a
 * name server would wait for an answer of nobody. */
static void
look_in_hosts(const char *path, const char *name, struct answer *a)
{
	char line[LINE_BYTES];
	uint8_t address[16];
	FILE *f = fopen(path, "re");

	while (next_line(f, line)) {
		char *rest = line;
		const char *word = next_word(&rest);
		const int family = word ? parse_address(word, address) : -1;
		while (family >= 0 && (word = next_word(&rest)))
			if (strcasecmp(word, name) == 0) {
				add_address(a, family, address);
				break;
			}
	}
	if (f)
		fclose(f);
}

/* Whether a datagram has a way to it, which connect(2) tells without one. */
static bool
has_way(const char *server)
{
	uint8_t address[16];
	struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(DNS_PORT)};
	struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(DNS_PORT)};
	const int family = parse_address(server, address);

	if (family < 0)
		return strchr(server, '%') != NULL; /* with a scope: getaddrinfo knows it */
	memcpy(&v4.sin_addr, address, sizeof v4.sin_addr);
	memcpy(&v6.sin6_addr, address, sizeof v6.sin6_addr);
	const int fd = socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return false;
	const bool has = family == AF_INET
			     ? connect(fd, (const struct sockaddr *)&v4, sizeof v4) == 0
			     : connect(fd, (const struct sockaddr *)&v6, sizeof v6) == 0;
	close(fd);
	return has;
}

static bool
has_server(const char *path)
{
	char line[LINE_BYTES];
	bool has = false;
	FILE *f = fopen(path, "re");

	for (int n = 0; !has && n < SERVERS_MAX && next_line(f, line);) {
		char *rest = line;
		const char *word = next_word(&rest);
		if (word != line || strcmp(word, "nameserver") != 0)
			continue; /* or one with spaces before it, which musl does not take */
		word = next_word(&rest);
		has = word && has_way(word);
		n++;
	}
	if (f)
		fclose(f);
	return has;
}

static enum resolve_result
result_of(int number, bool asked)
{
	if (!asked)
		return RESOLVE_NO_SERVER;
	if (number == EAI_NONAME || number == EAI_NODATA)
		return RESOLVE_UNKNOWN;
	return number == EAI_AGAIN ? RESOLVE_SILENT : RESOLVE_FAILED;
}

static void
look_up(const char *name, struct answer *a)
{
	const bool ask = has_server("/etc/resolv.conf");
	const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
				       .ai_flags = ask ? 0 : AI_NUMERICHOST};
	struct addrinfo *list = NULL;

	const int number = getaddrinfo(name, NULL, &hints, &list);
	a->bytes[0] = (uint8_t)result_of(number, ask);
	for (const struct addrinfo *i = number == 0 ? list : NULL; i; i = i->ai_next)
		add_address(
		    a, i->ai_family,
		    i->ai_family == AF_INET
			? (const void *)&((const struct sockaddr_in *)(const void *)i->ai_addr)
			      ->sin_addr
			: &((const struct sockaddr_in6 *)(const void *)i->ai_addr)->sin6_addr);
	if (number == 0)
		freeaddrinfo(list);
}

/* As a call of this user, less what root could do beyond his files: nothing here needs it. */
static int
give_up_rights(uint32_t uid, uint32_t gid)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	const struct __user_cap_data_struct none[2] = {{0}};

	if ((uid || gid) && (setgroups(0, NULL) < 0 || setresgid(gid, gid, gid) < 0 ||
			     setresuid(uid, uid, uid) < 0))
		return -1;
	return syscall(SYS_capset, &head, none) < 0 ? -1 : 0;
}

/* All descriptors but the pipe's, which becomes 0; and a signal when its reader has gone. */
static int
keep_pipe(int pipe)
{
	struct pollfd p = {.fd = 0};

	if (dup2(pipe, 0) < 0)
		return -1;
	if (syscall(SYS_close_range, 1u, ~0u, 0u) < 0)
		for (int fd = 1; fd < 1024; fd++)
			close(fd);
	if (fcntl(0, F_SETOWN, getpid()) < 0 || fcntl(0, F_SETFL, O_WRONLY | O_ASYNC) < 0)
		return -1;
	return poll(&p, 1, 0) < 0 || p.revents & POLLERR ? -1 : 0;
}

static _Noreturn void
be_child(const char *name, int pipe, uint32_t uid, uint32_t gid)
{
	struct answer a = {.n = 1};
	sigset_t none;

	setsid(); /* no signal to a group of init's reaches it, or the other way round */
	alarm(RESOLVE_MAX_S);
	reap_leave();
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (give_up_rights(uid, gid) < 0 || keep_pipe(pipe) < 0)
		_exit(1);
	look_in_hosts("/etc/hosts", name, &a);
	if (a.n == 1)
		look_up(name, &a);
	_exit(write(0, a.bytes, a.n) != (ssize_t)a.n);
}

/* ---- in init ---- */

static pid_t *
find_place(pid_t pid)
{
	for (int i = 0; i < RESOLVE_AT_ONCE; i++)
		if (children[i] == pid)
			return &children[i];
	return NULL;
}

void
lookup_begin(struct wire *w)
{
	const struct msg_init_resolve m = w->message.init_resolve;
	static const uint8_t no = RESOLVE_BUSY;
	char name[NAME_BYTES];
	struct err ignored;
	pid_t *place = find_place(0);

	auto_close int pipe = fd_steal(&w->message.fds[0]);
	if (str_copy(m.name, name, sizeof name, &ignored) < 0)
		return; /* the end of the pipe tells */
	const pid_t pid = place ? fork() : -1;
	if (pid == 0)
		be_child(name, pipe, m.uid, m.gid);
	if (pid > 0)
		*place = pid;
	else if (fcntl(pipe, F_SETFL, O_NONBLOCK) == 0)
		(void)!write(pipe, &no, 1);
}

void
lookup_reaped(pid_t pid)
{
	pid_t *place = find_place(pid);

	if (place)
		*place = 0;
}

void
lookup_signal_all(int signal)
{
	for (int i = 0; i < RESOLVE_AT_ONCE; i++)
		if (children[i] > 0)
			kill(children[i], signal);
}
