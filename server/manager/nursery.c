#include "nursery.h"
#include "base/fd.h"
#include "base/log.h"
#include "manager/manager.h"
#include "manager/spawn.h"

/* It ends with us; when it ended before, what was on its way to it is gone, and those connections with it. */
static void
read_zygote(void *ctx)
{
	struct wire *link = ctx;
	struct err err;
	int got;

	while ((got = wire_recv(link, &err)) == 1)
		; /* it has nothing to say */
	if (got == 0)
		return;
	log_err(&err, "connections start anew with the next one");
	wire_close(link);
}

int
nursery_begin(struct manager *m, struct err *err)
{
	struct wire *link = &m->nursery.link;
	auto_close int pidfd = -1;
	int pair[2];
	pid_t pid;

	if (wire_pair(pair, err) < 0)
		return -1;
	auto_close int theirs = pair[1];
	if (wire_open(link, pair[0], ROLE_MANAGER, ROLE_ZYGOTE, PHASE_OPEN, err) < 0)
		return -1;
	if (spawn_process(m->libexec, "berth-conn", NULL, &theirs, 1, &pid, &pidfd, err) == 0 &&
	    wire_watch(link, &m->loop, read_zygote, link, err) == 0)
		return 0;
	wire_close(link);
	return err_add(err, "start the zygote");
}

int
nursery_start_conn(struct manager *m, int conn_link, int client, uint32_t uid, struct err *err)
{
	struct wire *link = &m->nursery.link;
	const struct msg_conn_start start = {.uid = uid};
	const int fds[] = {conn_link, client};

	if (wire_is_open(link) && wire_send_fds(link, MSG_conn_start, &start, fds, 2, err) == 0)
		return 0;
	wire_close(link);
	if (nursery_begin(m, err) < 0)
		return -1;
	return wire_send_fds(link, MSG_conn_start, &start, fds, 2, err);
}

void
nursery_end(struct manager *m)
{
	wire_close(&m->nursery.link);
}
