/* The socket of a forwarded agent (ssh -A) in a session: made and named here, in the directory that the session
 * sees as /run/berth/out, so that nothing in the session, nor init, has a part in it. The keeper accepts on
 * it, and removes it when the connection ends. */
#include "base/fd.h"
#include "base/log.h"
#include "base/path.h"
#include "manager/agent.h"
#include "manager/forwards.h"
#include "manager/session.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { BACKLOG = 16 };

/* Listens at dir/name, for all of the session: one domain of trust. Its mode is right from the start, for the
 * directory is the keeper's, who could put something else there. */
static int
make_listener(int dir, const char *name, struct err *err)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};

	snprintf(a.sun_path, sizeof a.sun_path, "/proc/self/fd/%d/%s", dir, name);
	auto_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_sys(err, errno, "make a socket");
	const mode_t mask = umask(0);
	const int bound = bind(fd, (const struct sockaddr *)&a, sizeof a);
	const int why = errno;
	umask(mask);
	if (bound < 0)
		return err_sys(err, why, "bind %s", name);
	if (listen(fd, BACKLOG) < 0)
		return err_sys(err, errno, "listen at %s", name);
	return fd_steal(&fd);
}

/* The path inside, in out; or it fails with why there is none. */
static int
open_agent(struct conn *c, char *out, size_t n, struct err *err)
{
	struct session *s = session_find(c->m, str_of(c->user));
	char name[64];

	if (!s || !s->keeper.linked)
		return err_set(err, ERR_AGAIN, "its session does not run");
	if (!(forwards_of(c) & FORWARD_AGENT))
		return err_set(err, ERR_DENIED, "this key may not forward its agent (agent_roles)");
	if (c->m->node.isolation.rung == RUNG_PROCESS)
		return err_set(err, ERR_UNAVAILABLE, "a session of this isolation has no /run/berth/out");
	snprintf(name, sizeof name, "agent.%s", c->tag);
	auto_close int dir = session_open_dir(s, err) < 0
				 ? -1
				 : path_open(s->dir, "spill", O_RDONLY | O_DIRECTORY, err);
	if (dir < 0)
		return -1;
	unlinkat(dir, name, 0); /* of this connection's, at an earlier keeper */
	auto_close int fd = make_listener(dir, name, err);
	if (fd < 0)
		return -1;
	const struct msg_agent_listen body = {.grant = c->id, .name = str_of(name)};
	if (wire_send_fds(&s->keeper.wire, MSG_agent_listen, &body, &fd, 1, err) < 0)
		return -1;
	snprintf(out, n, "/run/berth/out/%s", name);
	audit_write(&c->m->audit, "forward", AUDIT_TEXT("session", s->row.id),
		    AUDIT_TEXT("name", s->row.name), AUDIT_TEXT("principal", c->principal),
		    AUDIT_TEXT("what", "agent"));
	return 0;
}

void
agent_want(struct conn *c, uint32_t seq)
{
	char path[100] = "";
	struct err err;

	if (open_agent(c, path, sizeof path, &err) < 0) {
		err_add(&err, "forward the agent of %s", c->principal);
		log_err(&err, "conn %s", c->tag);
		path[0] = '\0';
	}
	if (wire_send(&c->wire, agent_ready, &err, .seq = seq, .path = str_of(path)) < 0)
		shutdown(c->wire.fd, SHUT_RDWR);
}
