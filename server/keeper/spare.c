/* A keeper that was started before its session had a name: pid 1 runs, nothing of a user is in it,
 * and the manager's word is waited for. Until then
 *  1. no byte is read but the manager's, so rights are still held: naming the sandbox needs them;
 *  2. it ends with its manager and with its pid 1: a spare is worth nothing to the next manager. */
#include "keeper.h"

#include "base/log.h"

#include <errno.h>
#include <poll.h>

static int
name_box(struct keeper *k, struct err *err)
{
	if (k->engine->set_name && k->engine->set_name(&k->box, k->hostname, err) < 0)
		return err_add(err, "name the session");
	return 0;
}

/* Without a deadline of its own: it is the manager's to end what it has no use for. */
static int
wait_for_manager(struct keeper *k, struct err *err)
{
	struct pollfd p[2] = {{.fd = k->manager.fd, .events = POLLIN},
			      {.fd = k->box.pidfd, .events = POLLIN}};

	for (;;) {
		const int got = wire_recv(&k->manager, err);
		if (got != 0)
			return got < 0 ? -1 : 0;
		if (poll(p, 2, -1) < 0 && errno != EINTR)
			return err_sys(err, errno, "wait for a name");
		if (p[1].revents)
			return err_set(err, ERR_UNAVAILABLE, "its first process has ended");
	}
}

int
spare_wait(struct keeper *k, struct err *err)
{
	/* Once as it is, which is without a name: what cannot be done is known before it counts. */
	if (name_box(k, err) < 0 ||
	    wire_send(&k->manager, keeper_ready, err, .pid1 = (uint32_t)k->box.pid) < 0 ||
	    wait_for_manager(k, err) < 0)
		return -1;
	const struct message *m = &k->manager.message;
	if (m->id != MSG_keeper_name)
		return err_set(err, ERR_CORRUPT, "the manager sent %s to a spare",
			       wire_message_name(m->id));
	if (str_copy(m->keeper_name.name, k->name, sizeof k->name, err) < 0 ||
	    str_copy(m->keeper_name.hostname, k->hostname, sizeof k->hostname, err) < 0)
		return -1;
	log_init("berth-keeper", k->name);
	return name_box(k, err);
}
