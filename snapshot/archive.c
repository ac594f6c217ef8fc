/* berth-archive: snapshots without a server.
 *   holds      one store, for the commands that read it for reading alone; the directory that is
 *              captured or made
 *   may        write a store that no server uses, and a directory that is new or empty
 *   never      sweeps a store, or takes a lock of a server's: a live one is not disturbed
 *
 * What is unpacked has another name until all its digests were right. */
#include "archive_tool.h"
#include "apply.h"
#include "base/fd.h"
#include "base/num.h"
#include "base/path.h"
#include "base/time.h"
#include "blob.h"
#include "dirs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <libgen.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static int capture(struct archive_job *job, struct err *err);
static int unpack(struct archive_job *job, struct err *err);

/* Each command: its words, of which STORE is opened before it is called. */
static const struct command {
	const char *name, *words, *options, *help;
	int least, most, store_at; /* words; which of them is the store */
	bool makes_store;
	int (*run)(struct archive_job *job, struct err *err);
} commands[] = {
    {"capture", "DIR STORE",
     "[--parent SNAPSHOT] [--name NAME] [--note TEXT] [--level N] [--again]",
     "all of DIR as a snapshot, or as what lies on top of SNAPSHOT, as overlayfs stacks it;\n"
     "      --again: after each line of stdin, what has changed since, as a further snapshot",
     2, 2, 1, true, capture},
    {"unpack", "STORE SNAPSHOT|LAYER DIR", "",
     "the workspace of a snapshot, or what one layer holds, into DIR, which is new or empty", 3, 3,
     0, false, unpack},
    {"verify", "STORE [SNAPSHOT|LAYER]", "",
     "reads it all, and names whatever is not what was written", 1, 2, 0, false, archive_verify},
    {"ls", "STORE", "", "the snapshots of a store, the oldest first", 1, 1, 0, false, archive_ls},
};
enum { COMMANDS = sizeof commands / sizeof *commands };

static void
usage(FILE *to)
{
	fputs("usage: berth-archive COMMAND WORDS... [--json] [--threads N]\n"
	      "       berth-archive --help | --version\n\n",
	      to);
	for (size_t i = 0; i < COMMANDS; i++)
		fprintf(to, "  %s %s%s%s\n      %s\n", commands[i].name, commands[i].words,
			commands[i].options[0] ? " " : "", commands[i].options, commands[i].help);
	fputs("\nSTORE is a server's STATE/store, or one that capture has made. SNAPSHOT and LAYER "
	      "are\n"
	      "digests as `ls` shows them, 6 digits or more, or the name of a snapshot or "
	      "session.\n\n"
	      "Exit status: 0 done, 64 wrong use, 65 broken bytes, 66 not there, 73 no space,\n"
	      "130 a signal ended it.\n",
	      to);
}

/* ---- capture ---- */

static int
open_dir(const char *path, struct err *err)
{
	const int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0) {
		const int why = errno;
		err_sys(err, why, "%s", path);
		if (why == ENOENT || why == ENOTDIR)
			err->code = ERR_ABSENT;
	}
	return fd;
}

struct chain { /* a snapshot in the making: the layers of its parent, then its own */
	struct digest *layers, *diff_ids; /* owned */
	uint64_t *sizes;                  /* owned */
	size_t n;
	bool has_parent;
	struct digest parent;
};

static void
chain_done(struct chain *c)
{
	free(c->layers);
	free(c->diff_ids);
	free(c->sizes);
}

static void
chain_add(struct chain *c, const struct digest *layer, const struct digest *diff_id, uint64_t bytes)
{
	if (c->n == MANIFEST_LAYERS_MAX)
		return; /* oci_write_snapshot refuses one more than that */
	c->layers[c->n] = *layer;
	c->diff_ids[c->n] = *diff_id;
	c->sizes[c->n++] = bytes;
}

static int
chain_load(struct archive_job *job, struct chain *c, struct err *err)
{
	const size_t cap = MANIFEST_LAYERS_MAX + 1;
	auto_archive_list l = {0};
	const struct archive_snapshot *s = NULL;
	const struct manifest_layer *layer = NULL;

	c->layers = xnew(cap, sizeof *c->layers);
	c->diff_ids = xnew(cap, sizeof *c->diff_ids);
	c->sizes = xnew(cap, sizeof *c->sizes);
	if (!job->parent)
		return 0;
	if (archive_list_load(job->store, &l, err) < 0 ||
	    archive_list_find(&l, job->parent, &s, &layer, err) < 0)
		return -1;
	if (layer)
		return err_set(err, ERR_USAGE, "%s is a layer: the parent is a snapshot",
			       job->parent);
	if (s->m.n_layers >= MANIFEST_LAYERS_MAX)
		return err_set(err, ERR_USAGE, "a chain of more than %d layers",
			       MANIFEST_LAYERS_MAX);
	for (size_t i = 0; i < s->m.n_layers; i++)
		chain_add(c, &s->m.layers[i].digest, &s->m.layers[i].diff_id, s->m.layers[i].bytes);
	c->has_parent = true;
	c->parent = s->digest;
	return 0;
}

static int
tell_captured(const struct archive_job *job, const struct digest *snapshot,
	      const struct frames_sum *sum, const struct layer_counts *n, struct err *err)
{
	char size[16], raw[16];

	archive_tell_end();
	if (job->json) {
		json_t *j = json_object();
		json_object_set_new(j, "snapshot",
				    snapshot ? archive_tell_digest(snapshot) : json_null());
		json_object_set_new(j, "layer",
				    snapshot ? archive_tell_digest(&sum->digest) : json_null());
		json_object_set_new(j, "entries", json_integer((json_int_t)n->entries));
		json_object_set_new(j, "files", json_integer((json_int_t)n->files));
		json_object_set_new(j, "bytes", json_integer((json_int_t)n->bytes));
		json_object_set_new(j, "raw_bytes", json_integer((json_int_t)n->raw_bytes));
		json_object_set_new(j, "skipped", json_integer((json_int_t)n->skipped));
		json_object_set_new(j, "torn", json_integer((json_int_t)n->torn));
		if (archive_tell_json(j, err) < 0)
			return -1;
	} else if (!snapshot) {
		printf("nothing has changed\n");
	} else {
		archive_tell_size(n->bytes, size);
		archive_tell_size(n->raw_bytes, raw);
		printf("snapshot %.12s: %llu entries, %s as %s\n", digest_text(snapshot).text,
		       (unsigned long long)n->entries, raw, size);
		if (n->skipped)
			printf("left out: %llu sockets, devices and mounts\n",
			       (unsigned long long)n->skipped);
		if (n->torn)
			printf("torn: %llu files became shorter while they were read\n",
			       (unsigned long long)n->torn);
	}
	return fflush(stdout) == 0 ? 0 : err_sys(err, errno, "print");
}

static int
format_facts(const char *note, struct buf *out, struct err *err)
{
	auto_json *j = json_object();
	auto_free char *note_text = manifest_text(str_of(note));

	json_object_set_new(j, "note", json_string(note_text));
	auto_free char *text = json_dumps(j, JSON_COMPACT);
	buf_text(out, text ? text : "");
	return text && !buf_bad(out) ? 0 : err_set(err, ERR_USAGE, "--note is too long");
}

static int
capture_once(struct archive_job *job, struct capture *c, struct chain *chain, struct err *err)
{
	struct frames_sum sum;
	struct layer_counts n;
	struct digest snapshot;

	const int any = capture_run(c, false, &sum, &n, err);
	if (any < 0)
		return -1;
	if (!any)
		return tell_captured(job, NULL, &sum, &n, err);
	if (chain->n == MANIFEST_LAYERS_MAX)
		return err_set(err, ERR_USAGE, "a chain of more than %d layers",
			       MANIFEST_LAYERS_MAX);
	chain_add(chain, &sum.digest, &sum.diff_id, sum.bytes);
	auto_buf facts = BUF_MAX(MANIFEST_MAX_BYTES);
	if (job->note && format_facts(job->note, &facts, err) < 0)
		return -1;
	const struct oci_snapshot s = {
	    .session = STR_LIT(""),
	    .session_name = str_of(job->name ? job->name : ""),
	    .image = STR_LIT(""),
	    .made_by = STR_LIT("berth-archive"),
	    .facts = buf_view(&facts),
	    .fingerprint = STR_LIT(""),
	    .parent = chain->has_parent ? &chain->parent : NULL,
	    .layers = chain->layers,
	    .diff_ids = chain->diff_ids,
	    .sizes = chain->sizes,
	    .n_layers = chain->n,
	    .created_ns = time_real_ns(),
	};
	if (oci_write_snapshot(job->store, &s, &snapshot, err) < 0)
		return -1;
	chain->has_parent = true;
	chain->parent = snapshot;
	return tell_captured(job, &snapshot, &sum, &n, err);
}

/* What a server's index does not know, its collector may take for garbage. */
static int
refuse_server(const struct archive_job *job, struct err *err)
{
	auto_close int above = openat(job->store, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (above < 0 || faccessat(above, "index.db", F_OK, 0) < 0)
		return 0;
	err_set(err, ERR_USAGE, "%s belongs to a server, whose index would not know of it",
		job->store_path);
	return err_hint(err, "capture into a store of its own, or pause the session");
}

static int
capture(struct archive_job *job, struct err *err)
{
	__attribute__((cleanup(chain_done))) struct chain chain = {0};
	char line[256];

	if (refuse_server(job, err) < 0 || chain_load(job, &chain, err) < 0)
		return -1;
	auto_close int dir = open_dir(job->words[0], err);
	if (dir < 0)
		return -1;
	if (path_holds(dir, job->store, err) == 1)
		return err_set(err, ERR_USAGE, "the store is inside of what it would hold");
	archive_tell_begin(job, "capture");
	auto_of(capture) struct capture *c = capture_new(&job->o, dir, job->store, err);
	if (!c || capture_once(job, c, &chain, err) < 0)
		return -1;
	while (job->again && fgets(line, sizeof line, stdin))
		if (strchr(line, '\n') && capture_once(job, c, &chain, err) < 0)
			return -1;
	return 0;
}

/* ---- unpack ---- */

static int
tell_unpacked(const struct archive_job *job, const struct layer_counts *n, struct err *err)
{
	char raw[16];

	archive_tell_end();
	if (job->json) {
		json_t *j = json_object();
		json_object_set_new(j, "entries", json_integer((json_int_t)n->entries));
		json_object_set_new(j, "files", json_integer((json_int_t)n->files));
		json_object_set_new(j, "bytes", json_integer((json_int_t)n->bytes));
		json_object_set_new(j, "raw_bytes", json_integer((json_int_t)n->raw_bytes));
		return archive_tell_json(j, err);
	}
	archive_tell_size(n->raw_bytes, raw);
	printf("unpacked: %llu entries, %s\n", (unsigned long long)n->entries, raw);
	return 0;
}

/* Makes all of it under another name beside the goal, which it gets when all digests were right. */
static int
unpack_beside(struct archive_job *job, int above, const char *goal, const struct digest *layers,
	      size_t n, struct layer_counts *out, struct err *err)
{
	char tmp[32];
	struct err ignored;

	blob_tmp_name(tmp);
	if (mkdirat(above, tmp, 0700) < 0)
		return err_sys(err, errno, "make a directory beside %s", goal);
	auto_close int dir = path_open(above, tmp, O_RDONLY | O_DIRECTORY, err);
	int result = dir < 0 ? -1 : unpack_whole(&job->o, layers, n, dir, out, err);
	if (result == 0 && renameat(above, tmp, above, goal) < 0)
		result = err_sys(err, errno, "%s", goal);
	if (result < 0 && dirs_remove_tree(above, tmp, &ignored) < 0)
		err_hint(err, "remove %s yourself", tmp);
	return result;
}

/* The goal is absent or an empty directory: said before the work, and by rename(2) after it. */
static int
check_goal(int above, const char *goal, const char *path, struct err *err)
{
	const int dir = openat(above, goal, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dir < 0 && errno == ENOENT)
		return 0;
	DIR *names = dir < 0 ? NULL : fdopendir(dir);
	size_t n = 0;
	while (names && readdir(names))
		n++; /* "." and ".." too */
	if (names)
		closedir(names);
	if (names && n <= 2)
		return 0;
	err_set(err, ERR_USAGE, "%s is there already, and no empty directory", path);
	return err_hint(err, "name a directory that is new or empty");
}

static int
unpack(struct archive_job *job, struct err *err)
{
	auto_archive_list l = {0};
	const struct archive_snapshot *s = NULL;
	const struct manifest_layer *layer = NULL;
	struct layer_counts n;

	if (archive_list_load(job->store, &l, err) < 0 ||
	    archive_list_find(&l, job->words[0], &s, &layer, err) < 0)
		return -1;
	auto_free struct digest *layers = xnew(MANIFEST_LAYERS_MAX, sizeof *layers);
	const size_t n_layers = s ? s->m.n_layers : 1;
	for (size_t i = 0; i < n_layers; i++)
		layers[i] = s ? s->m.layers[i].digest : layer->digest;

	auto_free char *for_dir = xstrdup(job->words[1]);
	auto_free char *for_base = xstrdup(job->words[1]);
	const char *goal = basename(for_base);
	auto_close int above = open_dir(dirname(for_dir), err);
	if (above < 0)
		return -1;
	if (check_goal(above, goal, job->words[1], err) < 0)
		return -1;
	archive_tell_begin(job, "unpack");
	if (unpack_beside(job, above, goal, layers, n_layers, &n, err) < 0)
		return -1;
	return tell_unpacked(job, &n, err);
}

/* ---- the command line ---- */

static int
take_number(const char *text, uint64_t most, const char *what, uint64_t *out, struct err *err)
{
	return num_parse(str_of(text), 1, most, out, err) < 0 ? err_add(err, "%s", what) : 0;
}

/* 0 go on, 1 done. */
static int
parse_options(int argc, char **argv, struct archive_job *job, struct err *err)
{
	enum { HELP = 256, VERSION };
	static const struct option longs[] = {
	    {"parent", required_argument, NULL, 'p'},  {"name", required_argument, NULL, 'n'},
	    {"note", required_argument, NULL, 'o'},    {"level", required_argument, NULL, 'l'},
	    {"threads", required_argument, NULL, 't'}, {"json", no_argument, NULL, 'j'},
	    {"again", no_argument, NULL, 'a'},         {"help", no_argument, NULL, HELP},
	    {"version", no_argument, NULL, VERSION},   {NULL, 0, NULL, 0},
	};
	uint64_t number;
	int o;

	opterr = 0;
	while ((o = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		switch (o) {
		case 'p':
			job->parent = optarg;
			break;
		case 'n':
			job->name = optarg;
			break;
		case 'o':
			job->note = optarg;
			break;
		case 'l':
			if (take_number(optarg, 19, "--level", &number, err) < 0)
				return -1;
			job->o.level = (int)number;
			break;
		case 't':
			if (take_number(optarg, FRAMES_THREADS_MAX, "--threads", &number, err) < 0)
				return -1;
			job->o.threads = (unsigned)number;
			break;
		case 'j':
			job->json = true;
			break;
		case 'a':
			job->again = true;
			break;
		case HELP:
			usage(stdout);
			return 1;
		case VERSION:
			printf("berth-archive %s\n", BERTH_VERSION);
			return 1;
		default:
			return err_set(err, ERR_USAGE, "unknown option, or no value for it: %s",
				       argv[optind - 1]);
		}
	}
	return 0;
}

static const struct command *
take_command(int argc, char **argv, struct archive_job *job, struct err *err)
{
	const struct command *c = NULL;

	if (optind >= argc) {
		err_set(err, ERR_USAGE, "no command");
		return NULL;
	}
	for (size_t i = 0; i < COMMANDS; i++)
		if (strcmp(commands[i].name, argv[optind]) == 0)
			c = &commands[i];
	if (!c) {
		err_set(err, ERR_USAGE, "unknown command: %s", argv[optind]);
		return NULL;
	}
	char **words = argv + optind + 1;
	const int n = argc - optind - 1;
	if (n < c->least || n > c->most) {
		err_set(err, ERR_USAGE, "%s wants %s", c->name, c->words);
		return NULL;
	}
	job->store_path = words[c->store_at];
	for (int i = 0, k = 0; i < n; i++)
		if (i != c->store_at)
			job->words[k++] = words[i];
	return c;
}

static int
open_store(const struct command *c, struct archive_job *job, struct err *err)
{
	if (c->makes_store && mkdir(job->store_path, 0700) < 0 && errno != EEXIST)
		return err_sys(err, errno, "make %s", job->store_path);
	job->store = open_dir(job->store_path, err);
	if (job->store < 0)
		return -1;
	job->o.store = job->store;
	if (!job->o.threads) {
		const long cores = sysconf(_SC_NPROCESSORS_ONLN);
		job->o.threads = cores < 1                    ? 1
				 : cores > FRAMES_THREADS_MAX ? FRAMES_THREADS_MAX
							      : (unsigned)cores;
	}
	return 0;
}

static void
prepare(void)
{
	struct rlimit files;

	setlocale(LC_CTYPE, "C.UTF-8"); /* libarchive reads names by it */
	umask(0);
	if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < 1024) {
		files.rlim_cur = files.rlim_max < 1024 ? files.rlim_max : 1024;
		setrlimit(RLIMIT_NOFILE, &files);
	}
}

int
main(int argc, char **argv)
{
	/* Who may not give files away makes them his own. */
	struct archive_job job = {
	    .store = -1,
	    .o = {.store = -1, .cache = -1, .owner = -1, .group = -1, .one_owner = geteuid() != 0},
	};
	const struct command *c = NULL;
	char line[1024];
	struct err err;

	prepare();
	int result = parse_options(argc, argv, &job, &err);
	if (result == 1)
		return 0;
	if (result == 0) {
		c = take_command(argc, argv, &job, &err);
		result = c && open_store(c, &job, &err) == 0 ? c->run(&job, &err) : -1;
	}
	archive_tell_end();
	fd_close(&job.store);
	if (result == 0 && fflush(stdout) != 0)
		result = err_sys(&err, errno, "print");
	if (result == 0)
		return 0;
	err_what(&err, "%s", c ? c->name : "berth-archive");
	if (!err.hint[0] && (err.code == ERR_USAGE || err.code == ERR_ABSENT ||
			     err.code == ERR_INTERNAL || err.code == ERR_UNAVAILABLE))
		err_hint(&err, "run: berth-archive --help");
	err_line(&err, line, sizeof line);
	fprintf(stderr, "%s\n", line);
	return err_exit(err.code);
}
