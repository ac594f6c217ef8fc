/* berthd, the manager.
 *   holds      the index, the mounts, the cgroups, every link to keepers, conns and workers
 *   may        everything: it runs as root
 *   never      parses SSH (but for certificates, see cert.h), reads an archive or anything that a
 * session wrote, waits for a peer, stands in the path of a call's bytes */
#include "manager.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/path.h"
#include "base/time.h"
#include "manager/algorithms.h"
#include "manager/collector.h"
#include "manager/do.h"
#include "manager/fork_ready.h"
#include "manager/imported.h"
#include "manager/libssh.h"
#include "manager/login.h"
#include "manager/reindex.h"
#include "manager/session.h"
#include "manager/sftp_files.h"
#include "manager/spares.h"
#include "manager/spawn.h"
#include "manager/takeover.h"
#include "manager/throwaway.h"
#include "manager/trial.h"
#include "manager/verifier.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- what a worker has checked ---- */

bool
manager_is_cached(const struct manager *m, const struct digest *d)
{
	for (size_t i = 0; i < m->n_cached; i++)
		if (digest_equal(&m->cached[i], d))
			return true;
	return false;
}

void
manager_note_cached(struct manager *m, const struct digest *d)
{
	if (manager_is_cached(m, d))
		return;
	m->cached = xgrow(m->cached, m->n_cached, &m->cached_cap, sizeof *m->cached);
	m->cached[m->n_cached++] = *d;
}

/* ---- the command line ---- */

static void
usage(FILE *to)
{
	auto_buf options = BUF_MAX(65536);

	config_help(&options);
	fprintf(
	    to,
	    "usage: berthd [--state DIR] [--run DIR] [--listen ADDR:PORT] [--config FILE]\n"
	    "       berthd --check [the same]\n"
	    "       berthd --reindex [the same]\n"
	    "       berthd --help | --version\n\n"
	    "Hosts workspaces over SSH, in the foreground. SIGTERM ends the server and leaves\n"
	    "running sessions to the next one; SIGINT pauses them all first. --check tries the\n"
	    "isolation that can be had here with a session of its own, and says what it is.\n"
	    "--reindex makes index.db anew from the store, and keeps the old one.\n\n"
	    "Options of the configuration file, with their defaults:\n\n%s",
	    buf_cstr(&options));
}

struct args {
	const char *state, *run, *listen, *config;
	bool check, reindex;
};

/* 0 go on, 1 done. */
static int
parse_args(int argc, char **argv, struct args *out, struct err *err)
{
	static const struct option longs[] = {
	    {"state", required_argument, NULL, 's'},
	    {"run", required_argument, NULL, 'r'},
	    {"listen", required_argument, NULL, 'l'},
	    {"config", required_argument, NULL, 'c'},
	    {"check", no_argument, NULL, 'k'},
	    {"reindex", no_argument, NULL, 'i'},
	    {"help", no_argument, NULL, 'h'},
	    {"version", no_argument, NULL, 'v'},
	    {NULL, 0, NULL, 0},
	};
	int c;

	opterr = 0;
	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		switch (c) {
		case 's':
			out->state = optarg;
			break;
		case 'r':
			out->run = optarg;
			break;
		case 'l':
			out->listen = optarg;
			break;
		case 'c':
			out->config = optarg;
			break;
		case 'k':
			out->check = true;
			break;
		case 'i':
			out->reindex = true;
			break;
		case 'h':
			usage(stdout);
			return 1;
		case 'v':
			printf("berthd %s\n", BERTH_VERSION);
			return 1;
		default:
			err_set(err, ERR_USAGE, "unknown option: %s", argv[optind - 1]);
			return err_hint(err, "berthd --help");
		}
	}
	if (optind < argc) {
		err_set(err, ERR_USAGE, "unexpected argument: %s", argv[optind]);
		return err_hint(err, "berthd --help");
	}
	return 0;
}

/* A user without root has his own places (the XDG base directory specification). */
static int
set_user_default(struct config *c, const char *option, const char *variable, const char *home,
		 const char *rest, struct err *err)
{
	const char *base = getenv(variable);
	char path[CONFIG_TEXT_BYTES];

	if (base && *base == '/')
		snprintf(path, sizeof path, "%s/berth", base);
	else
		snprintf(path, sizeof path, "%s/%s", home, rest);
	return config_set(c, str_of(option), str_of(path), err);
}

static int
set_user_defaults(struct config *c, char *out_file, size_t file_bytes, struct err *err)
{
	const char *home = getenv("HOME"), *config = getenv("XDG_CONFIG_HOME");

	if (!home || *home != '/')
		return err_set(err, ERR_CONFIG, "HOME is not set, and no --state given");
	if (config && *config == '/')
		snprintf(out_file, file_bytes, "%s/berth/berthd.conf", config);
	else
		snprintf(out_file, file_bytes, "%s/.config/berth/berthd.conf", home);
	if (set_user_default(c, "state", "XDG_STATE_HOME", home, ".local/state/berth", err) < 0)
		return -1;
	return set_user_default(c, "run", "XDG_RUNTIME_DIR", home, ".local/state/berth/run", err);
}

static int
load_config(struct config *c, const struct args *a, struct err *err)
{
	char standard[CONFIG_TEXT_BYTES] = "/etc/berth/berthd.conf";

	config_default(c);
	if (geteuid() != 0 && set_user_defaults(c, standard, sizeof standard, err) < 0 &&
	    !(a->state && a->run && a->config))
		return -1;
	if (a->config && config_load(c, a->config, err) < 0)
		return -1;
	if (!a->config && access(standard, F_OK) == 0 && config_load(c, standard, err) < 0)
		return -1;
	if ((a->state && config_set(c, STR_LIT("state"), str_of(a->state), err) < 0) ||
	    (a->run && config_set(c, STR_LIT("run"), str_of(a->run), err) < 0) ||
	    (a->listen && config_set(c, STR_LIT("listen"), str_of(a->listen), err) < 0))
		return -1;
	return 0;
}

/* ---- signals ---- */

enum { PAUSES_AT_ONCE = 16 };

static bool
is_busy(const struct session *s)
{
	return s->step != STEP_IDLE || s->wants;
}

/* A few at a time: each has a worker or two, and deadlines. */
void
manager_stop_when_idle(struct manager *m)
{
	unsigned busy = 0;

	if (m->stopping != 1)
		return;
	for (const struct session *s = m->sessions; s; s = s->next)
		busy += is_busy(s);
	for (struct session *s = m->sessions; s && busy < PAUSES_AT_ONCE; s = s->next) {
		if (s->stopped || is_busy(s))
			continue;
		s->stopped = true;
		if (s->choices.throwaway) {
			struct err why;
			err_set(&why, ERR_AGAIN, "the server is being stopped");
			throwaway_lose(s, &why);
			busy++;
			continue;
		}
		if (s->state != SESSION_RUNNING)
			continue;
		session_want(s, want_new(m, WANT_PAUSE, NULL));
		busy++;
	}
	m->loop.stop = busy == 0;
}

static void
on_signal(void *ctx, uint32_t events)
{
	struct manager *m = ctx;
	struct signalfd_siginfo info;

	(void)events;
	while (read(m->signals, &info, sizeof info) == (ssize_t)sizeof info) {
		switch (info.ssi_signo) {
		case SIGCHLD:
			while (waitpid(-1, NULL, WNOHANG) > 0)
				; /* their ends are told by sockets and pidfds */
			break;
		case SIGINT:
			if (++m->stopping == 1) {
				log_line("all sessions are paused, then the server ends");
				manager_stop_when_idle(m);
			} else {
				m->loop.stop = true;
			}
			break;
		case SIGTERM:
			log_line("the server ends; sessions go on");
			m->loop.stop = true;
			break;
		default:
			break;
		}
	}
}

static int
open_signals(struct manager *m, struct err *err)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	m->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return m->signals < 0 ? err_sys(err, errno, "watch signals") : 0;
}

/* ---- start and end ---- */

#define LOCK_MAX_NS (2 * NS_PER_S)

static int
lock_state(struct manager *m, struct err *err)
{
	m->lock = openat(m->state, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (m->lock < 0)
		return err_sys(err, errno, "open the lock");
	/* A child of a manager that was just killed may hold it for an instant more; flock(2) has
	 * no event to wait for with a bound. */
	const uint64_t until = time_now_ns() + LOCK_MAX_NS;
	while (flock(m->lock, LOCK_EX | LOCK_NB) < 0) {
		if (time_now_ns() < until) {
			poll(NULL, 0, 20);
			continue;
		}
		err_set(err, ERR_UNAVAILABLE, "another berthd uses this state directory");
		return err_hint(err, "stop it, or choose another directory with --state");
	}
	return 0;
}

static int
open_dirs(struct manager *m, struct err *err)
{
	auto_close int layers = -1;

	m->store = path_open_dir(m->state, "store", 0700, err);
	m->cache = m->store < 0 ? -1 : path_open_dir(m->state, "cache", 0700, err);
	m->scratch = m->cache < 0 ? -1 : path_open_dir(m->state, "scratch", 0700, err);
	m->sessions_dir = m->scratch < 0 ? -1 : path_open_dir(m->state, "sessions", 0700, err);
	m->spares_dir = m->sessions_dir < 0 ? -1 : path_open_dir(m->state, "spares", 0700, err);
	m->keepers = m->spares_dir < 0 ? -1 : path_open_dir(m->run, "keepers", 0700, err);
	if (m->keepers < 0)
		return -1;
	path_spread(m->sessions_dir);
	path_spread(m->spares_dir);
	return 0;
}

static int
try_rung(void *ctx, enum rung r, struct err *err)
{
	const struct manager *m = ctx;
	struct trial ignored;

	return trial_run(&m->config, m->libexec, r, &ignored, err);
}

static int
check(const struct manager *m, struct err *err)
{
	auto_buf libssh = BUF_MAX(512);
	struct err hole = {0};
	const bool is_good = libssh_check("/var/lib/dpkg", &libssh, &hole) == 0;

	if (trial_check(&m->config, m->libexec, err) < 0)
		return -1;
	printf("%-10s %s\n", "libssh", is_good ? buf_cstr(&libssh) : hole.why);
	if (!is_good)
		*err = hole;
	return is_good ? 0 : -1;
}

/* The configuration, what is installed beside us, and what this process becomes: before files are
 * opened, since on some rungs it is somebody else from here on. */
static int
begin(struct manager *m, const struct args *a, struct isolation *out, struct err *err)
{
	if (load_config(&m->config, a, err) < 0 ||
	    limits_default(&m->config, &m->standard, err) < 0 ||
	    retention_parse(str_of(m->config.retention), &m->retention, err) < 0 ||
	    snapshot_mode_parse(str_of(m->config.snapshot), false, &m->snapshot, err) < 0 ||
	    mounts_allowed_parse(str_of(m->config.mounts), &m->mounts, err) < 0 ||
	    listeners_parse(&m->listeners, &m->config, err) < 0 ||
	    forwards_parse(&m->config, &m->forwards, err) < 0 ||
	    sources_check(str_of(m->config.login_exempt), err) < 0 ||
	    algorithms_parse(&m->config, &m->algorithms, err) < 0 ||
	    networks_parse(m->config.networks, m->config.network, &m->networks, err) < 0 ||
	    spawn_find_libexec(m->libexec, sizeof m->libexec, err) < 0)
		return -1;
	umask(0077);
	if (a->check)
		return check(m, err);
	if (rung_choose(m->config.isolation, try_rung, m, out, err) < 0 || rung_enter(out, err) < 0)
		return -1;
	log_line("isolation is %s%s%s", rung_name(out->rung), out->lacks[0] ? ": " : "", out->lacks);
	return 0;
}

static int
open_audit(struct manager *m, const struct isolation *isolation, struct err *err)
{
	const struct audit_options options = {.file_max_bytes = m->config.audit_file_max,
					      .sync = m->config.audit_sync,
					      .isolation = rung_name(isolation->rung)};
	uint64_t position;

	if (index_spool_last(&m->index, AUDIT_POSITION, &position, err) < 0 ||
	    audit_open(&m->audit, &m->loop, m->state, buf_view(&m->keys.host), &options, position,
		       err) < 0)
		return -1;
	conns_note_keys(m);
	return 0;
}

static int
open_all(struct manager *m, const struct isolation *isolation, struct err *err)
{
	struct rlimit files;
	struct err why;

	if (getrlimit(RLIMIT_NOFILE, &files) == 0) { /* a few for each session and connection */
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	if (open_signals(m, err) < 0)
		return -1;
	door_open(&m->door, m);
	gethostname(m->hostname, sizeof m->hostname - 1);
	m->state = path_open_top(m->config.state, 0700, err);
	if (m->state < 0)
		return -1;
	if (lock_state(m, err) < 0 || reindex_check(m->state, err) < 0 ||
	    index_open(&m->index, m->state, err) < 0)
		return err_add(err, "%s", m->config.state);
	if (listeners_open(m, err) < 0)
		return -1;
	m->run = path_open_top(m->config.run, 0700, err);
	if (m->run < 0)
		return -1;
	if (node_open(&m->node, m->state, m->run, m->config.state, m->libexec,
		      (unsigned)m->config.uid_base, isolation, err) < 0)
		return -1;
	if (sftp_files_open(m->libexec, m->config.sftp_server, isolation, m->node.sftp, &why) < 0)
		log_err(&why, "sessions have no sftp");
	fd_close(&m->state); /* from here on all is opened through the nosuid,nodev mount */
	m->state = fd_dup(m->node.state, err);
	if (m->state < 0)
		return -1;
	if (keys_open(&m->keys, m->state, m->config.state, err) < 0 || open_dirs(m, err) < 0 ||
	    node_name_find(m->state, "/etc/machine-id", m->node_name, err) < 0)
		return -1;
	if (open_audit(m, isolation, err) < 0)
		return -1;
	mounts_allowed_warn(&m->mounts);
	m->image = image_host_open(m->cache, m->image_name, sizeof m->image_name, err);
	if (m->image < 0)
		return err_add(err, "make the image of this host");
	return means_begin(m, err) < 0 ? -1 : takeover(m, err);
}

/* The state's directories as they lie there: nothing is mounted, no session is touched. */
static int
reindex(struct manager *m, const struct isolation *isolation, struct err *err)
{
	signal(SIGPIPE, SIG_IGN);
	m->node.isolation = *isolation;
	m->state = path_open_top(m->config.state, 0700, err);
	m->run = m->state < 0 ? -1 : path_open_top(m->config.run, 0700, err);
	if (m->run < 0)
		return -1;
	if (lock_state(m, err) < 0)
		return err_add(err, "%s", m->config.state);
	if (open_dirs(m, err) < 0)
		return -1;
	m->image = image_host_open(m->cache, m->image_name, sizeof m->image_name, err);
	return m->image < 0 ? -1 : reindex_run(m, err);
}

static int
serve(struct manager *m, struct err *err)
{
	if (disk_begin(m, err) < 0)
		return -1;
	if (listeners_watch(m, err) < 0 || login_watch(m, err) < 0 ||
	    watch_add(&m->loop, &m->signals_watch, m->signals, EPOLLIN, on_signal, m, err) < 0)
		return -1;
	if (nursery_begin(m, err) < 0)
		return -1;
	spares_begin(m);
	fork_ready_begin(m);
	collector_begin(m);
	listeners_announce(m);
	return loop_run(&m->loop, err);
}

/* The next start has little to read then. */
static void
end_audit(struct manager *m)
{
	uint64_t position;
	struct err err;

	if (m->audit.loop && m->index.db &&
	    (audit_calls_position(&m->audit, &position, &err) < 0 ||
	     index_put_spool_last(&m->index, AUDIT_POSITION, position, &err) < 0))
		log_err(&err, "the position of the audit log");
	audit_close(&m->audit);
}

static void
close_all(struct manager *m)
{
	m->closing = true;
	records_flush(m);
	nursery_end(m);
	conns_close_all(m);
	imported_stop();
	collector_end(m);
	verifier_stop();
	do_usage_stop();
	disk_end(m);
	spares_end(m);
	fork_ready_end(m);
	session_ref_job_end(m);
	while (m->sessions)
		session_free(m->sessions);
	means_end(m);
	listeners_close(&m->listeners);
	login_unwatch(m);
	door_close(&m->door);
	watch_remove(&m->signals_watch);
	if (m->node.open)
		node_close(&m->node);
	end_audit(m);
	if (m->index.db)
		index_close(&m->index);
	keys_close(&m->keys);
	if (m->loop.batch) {
		records_free(m);
		loop_done(&m->loop);
	}
	int *const fds[] = {&m->state,        &m->run,     &m->store,     &m->cache,
			    &m->sessions_dir, &m->keepers, &m->scratch,   &m->lock,
			    &m->signals,      &m->image,   &m->spares_dir};
	for (size_t i = 0; i < sizeof fds / sizeof *fds; i++)
		fd_close(fds[i]);
	free(m->cached);
}

int
main(int argc, char **argv)
{
	static struct manager m = {.state = -1,
				   .run = -1,
				   .store = -1,
				   .cache = -1,
				   .sessions_dir = -1,
				   .spares_dir = -1,
				   .keepers = -1,
				   .scratch = -1,
				   .lock = -1,
				   .keys_notify = -1,
				   .signals = -1,
				   .image = -1,
				   .keys.dir = -1,
				   .audit = {.dir = -1, .fd = -1},
				   .owner = &owner_index};
	struct args args = {0};
	struct err err;

	log_init("berthd", "");
	int result = parse_args(argc, argv, &args, &err);
	if (result == 1)
		return 0;
	struct isolation isolation;
	if (result == 0)
		result = begin(&m, &args, &isolation, &err);
	if (result == 0 && args.check)
		return 0;
	if (result == 0)
		result = loop_init(&m.loop, &err);
	if (result == 0 && args.reindex)
		result = reindex(&m, &isolation, &err);
	else if (result == 0)
		result = open_all(&m, &isolation, &err);
	if (result == 0 && !args.reindex)
		result = serve(&m, &err);
	for (const struct session *s = m.sessions; s && m.stopping && result == 0; s = s->next)
		if (s->keeper.pidfd >= 0)
			result =
			    err_set(&err, ERR_AGAIN, "session %s could not be paused, and goes on",
				    s->row.name);
	close_all(&m);
	if (result == 0)
		return 0;
	char line[1024];
	err_what(&err, "berthd");
	err_line(&err, line, sizeof line);
	fprintf(stderr, "%s\n", line);
	return err_exit(err.code);
}
