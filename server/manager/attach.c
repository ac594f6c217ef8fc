/* Invariants
 *  1. what is opened here is named by the operator's config, never by a session;
 *  2. what is made here is held by fds and by nothing else: it goes with the last of them. */
#include "attach.h"
#include "base/fd.h"
#include "manager/mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define QUIET (MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC)

/* A namespace that the operator made; not the node's own, which would be `host` by another name. */
static int
open_netns(const struct network *n, struct err *err)
{
	struct stat st, own;

	auto_close int fd = open(n->place, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 && errno == ENOENT) {
		err_set(err, ERR_ABSENT, "network %s: there is no %s", n->name, n->place);
		return err_hint(err, "make it: ip netns add NAME");
	}
	if (fd < 0)
		return err_sys(err, errno, "network %s: open %s", n->name, n->place);
	if (ioctl(fd, NS_GET_NSTYPE) != CLONE_NEWNET)
		return err_set(err, ERR_CONFIG, "network %s: %s is no network namespace", n->name,
			       n->place);
	if (fstat(fd, &st) < 0 || stat("/proc/self/ns/net", &own) < 0)
		return err_sys(err, errno, "network %s: look at it", n->name);
	if (st.st_ino == own.st_ino && st.st_dev == own.st_dev)
		return err_set(err, ERR_CONFIG, "network %s: %s is the node's own: use host",
			       n->name, n->place);
	return fd_steal(&fd);
}

/* sysfs of the namespace that we are in. The session's root has no right to mount it where the
 * namespace is not its own, and a copy of the node's would show the node's interfaces. */
static int
mount_sys(struct err *err)
{
	auto_close int fs = fsopen("sysfs", FSOPEN_CLOEXEC);
	if (fs < 0 || fsconfig(fs, FSCONFIG_SET_STRING, "source", "sysfs", 0) < 0 ||
	    fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		return err_sys(err, errno, "make a sysfs");
	const int tree = fsmount(fs, FSMOUNT_CLOEXEC, QUIET);
	return tree < 0 ? err_sys(err, errno, "mount a sysfs") : tree;
}

/* The node's for host; else what ip-netns(8) would use. *out stays where there is none. */
static int
open_resolv(const struct network *n, int *out, struct err *err)
{
	char path[80] = "/etc/resolv.conf";

	if (n->kind != NETWORK_HOST)
		snprintf(path, sizeof path, "/etc/netns/%s/resolv.conf", n->name);
	auto_close int file = open(path, O_PATH | O_CLOEXEC);
	if (file < 0 && errno == ENOENT)
		return 0;
	*out = file < 0 ? err_sys(err, errno, "open %s", path) : mounts_clone(file, QUIET, -1, err);
	return *out < 0 ? err_add(err, "%s", path) : 0;
}

int
attach_network(const struct network *n, unsigned slot, int userns, struct attached *out,
	       struct err *err)
{
	uint32_t address;

	*out = (struct attached){-1, -1, -1};
	if (n->kind == NETWORK_NONE)
		return 0;
	if (open_resolv(n, &out->resolv, err) < 0)
		return -1;
	if (n->kind == NETWORK_BRIDGE) {
		if (network_address(n, slot, &address, err) < 0)
			return -1;
		out->netns = bridge_attach(n, address, userns, err);
		return out->netns < 0 ? err_add(err, "network %s", n->name) : 0;
	}
	if (n->kind == NETWORK_NETNS) {
		out->netns = open_netns(n, err);
		if (out->netns < 0)
			return -1;
		if (setns(out->netns, CLONE_NEWNET) < 0)
			return err_sys(err, errno, "enter network %s", n->name);
	}
	out->sys = mount_sys(err);
	/* Without root the node's can be mounted by nobody: an empty directory stands for it. */
	return out->sys < 0 && !(n->kind == NETWORK_HOST && err->code == ERR_DENIED) ? -1 : 0;
}
