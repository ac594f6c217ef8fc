#include "rung.h"
#include "base/buf.h"
#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SESSION_IDS_MOST = 65536 };

static const struct {
	const char *name, *words, *warning;
} rungs[RUNGS] = {
    [RUNG_ROOT] = {"root",
		   "namespaces, an id range of its own, overlay, cgroups where there are, seccomp", NULL},
    [RUNG_ROOTLESS] = {"rootless",
		       "namespaces inside a user namespace of the server's user, overlay, seccomp; "
		       "sessions share that user's ids",
		       NULL},
    [RUNG_PROCESS] = {"process",
		      "Landlock, seccomp and resource limits alone: it sees the machine's programs, "
		      "processes and names; no overlay, so every snapshot is whole",
		      "berth: isolation is `process`, the weakest: this session shares the machine's "
		      "processes and file names with all others (see: berthd --check)"},
};

const char *
rung_name(enum rung r)
{
	return rungs[r].name;
}

const char *
rung_words(enum rung r)
{
	return rungs[r].words;
}

const char *
rung_warning(enum rung r)
{
	return rungs[r].warning;
}

/* ---- can it be had ---- */

static bool
has_capability(unsigned number)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct sets[2] = {{0}};

	return syscall(SYS_capget, &head, sets) == 0 && (sets[number / 32].effective >> number % 32 & 1);
}

static int
look_root(struct err *err)
{
	if (geteuid() == 0 && has_capability(CAP_SYS_ADMIN))
		return 0;
	err_set(err, ERR_DENIED, "berthd is not root with CAP_SYS_ADMIN");
	return err_hint(err, "start it as root; in a container, with CAP_SYS_ADMIN");
}

/* In a child, since a user namespace cannot be left again. */
static int
look_rootless(struct err *err)
{
	int status = 0;
	const pid_t pid = fork();

	if (pid == 0)
		_exit(unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0 ? errno : 0);
	if (pid < 0)
		return err_sys(err, errno, "try a user namespace");
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	const int why = WIFEXITED(status) ? WEXITSTATUS(status) : EPERM;
	if (why == 0)
		return 0;
	err_set(err, ERR_DENIED, "no user namespace can be made here: %s", strerrordesc_np(why));
	return err_hint(err, "see user.max_user_namespaces and kernel.unprivileged_userns_clone, or "
			     "the container's seccomp profile");
}

/* Without Landlock a session of the server's own user could read the server's keys. */
static int
look_process(struct err *err)
{
	const long abi =
	    syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);

	if (abi >= 1)
		return 0;
	err_set(err, ERR_DENIED, "this kernel has no Landlock, which is all that would keep a session "
				 "from the server's files");
	return err_hint(err, "enable the landlock LSM, or use another rung");
}

int
rung_look(enum rung r, struct err *err)
{
	switch (r) {
	case RUNG_ROOT:
		return look_root(err);
	case RUNG_ROOTLESS:
		return look_rootless(err);
	case RUNG_PROCESS:
		return look_process(err);
	case RUNGS:
		break;
	}
	return err_set(err, ERR_INTERNAL, "no such rung");
}

/* ---- choosing ---- */

/* Root of the node itself, not of a container's user namespace: what it may do is known. */
static bool
is_nodes_root(void)
{
	static const char *const all[] = {"0", "0", "4294967295"};
	char map[64] = "";
	size_t n = 0;
	struct str word;

	auto_close int fd = open("/proc/self/uid_map", O_RDONLY | O_CLOEXEC);
	const ssize_t got = fd < 0 ? -1 : read(fd, map, sizeof map - 1);
	struct str rest = {map, got > 0 ? (size_t)got - 1 : 0}; /* without the line's end */
	while (rest.len && str_cut(&rest, ' ', &word)) {
		if (word.len == 0)
			continue;
		if (n == 3 || !str_is(word, all[n++]))
			return false;
	}
	return n == 3;
}

static void
add_lack(struct isolation *i, enum rung r, const struct err *why)
{
	const size_t used = strlen(i->lacks);

	snprintf(i->lacks + used, sizeof i->lacks - used, "%sno %s: %.150s", used ? "; " : "",
		 rung_name(r), why->why);
}

static int
try_rung(enum rung r, rung_trial_fn trial, void *ctx, struct err *err)
{
	if (rung_look(r, err) < 0)
		return -1;
	if (!trial || (r == RUNG_ROOT && is_nodes_root()))
		return 0;
	return trial(ctx, r, err);
}

static struct isolation
describe(enum rung r)
{
	return (struct isolation){
	    .rung = r,
	    .own_uids = r == RUNG_ROOT || (r == RUNG_PROCESS && geteuid() == 0 &&
					   has_capability(CAP_SETUID) && has_capability(CAP_SETGID) &&
					   has_capability(CAP_CHOWN) && has_capability(CAP_KILL)),
	    .ids = r == RUNG_PROCESS ? 1 : SESSION_IDS_MOST,
	};
}

int
rung_parse(const char *wanted, enum rung *out, struct err *err)
{
	enum rung r = 0;

	while (r < RUNGS && strcmp(wanted, rungs[r].name) != 0)
		r++;
	if (r == RUNGS && strcmp(wanted, "auto") != 0) {
		err_set(err, ERR_CONFIG, "isolation: no such rung: %.32s", wanted);
		return err_hint(err, "auto, root, rootless or process");
	}
	*out = r;
	return 0;
}

static int
choose_best(rung_trial_fn trial, void *ctx, struct isolation *out, struct err *err)
{
	struct isolation lacking = {.rung = RUNGS};
	struct err why;

	for (enum rung r = 0; r < RUNGS; r++) {
		if (try_rung(r, trial, ctx, &why) < 0) {
			add_lack(&lacking, r, &why);
			continue;
		}
		*out = describe(r);
		memcpy(out->lacks, lacking.lacks, sizeof out->lacks);
		return 0;
	}
	return err_set(err, ERR_DENIED, "no isolation can be had here: %s", lacking.lacks);
}

int
rung_choose(const char *wanted, rung_trial_fn trial, void *ctx, struct isolation *out,
	    struct err *err)
{
	enum rung r;

	if (rung_parse(wanted, &r, err) < 0)
		return -1;
	if (r == RUNGS)
		return choose_best(trial, ctx, out, err);
	if (rung_look(r, err) < 0)
		return err_add(err, "isolation %s", wanted);
	*out = describe(r);
	if (r != RUNG_ROOT)
		snprintf(out->lacks, sizeof out->lacks, "the configuration asks for this one");
	return 0;
}

int
rung_enter(struct isolation *i, struct err *err)
{
	char why[160] = "";
	unsigned ids;

	if (i->rung != RUNG_ROOTLESS)
		return 0;
	if (rootless_enter(&ids, why, sizeof why, err) < 0)
		return err_add(err, "isolation rootless");
	/* The last id is nobody's inside, so that berth-init can belong to it. */
	i->ids = ids == 0 ? 1 : ids < SESSION_IDS_MOST ? ids : SESSION_IDS_MOST;
	i->init_owner = ids == 0 ? 0 : i->ids;
	if (why[0]) {
		const size_t used = strlen(i->lacks);
		snprintf(i->lacks + used, sizeof i->lacks - used, "%sa session has no id but root's: %s",
			 used ? "; " : "", why);
	}
	return 0;
}
