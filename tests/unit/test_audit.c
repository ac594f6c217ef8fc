/* audit.h's invariants and check.h's promise: what was done to a log is found. */
#include "server/audit/chain.c"
#include "server/audit/check.c"
#include "server/audit/signature.c"
#include "server/manager/audit.c"
#include "server/manager/audit_calls.c"
#include "index/rows.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <sys/resource.h>
#include <signal.h>

/* Made by ssh-keygen for this test alone. */
static const char private[] =
    "-----BEGIN OPENSSH PRIVATE KEY-----\n"
    "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW\n"
    "QyNTUxOQAAACD6xLloOwIK60Xafif4zqTkuQpV/2hiWb7YmFWSkY68uQAAAIjUvAaB1LwG\n"
    "gQAAAAtzc2gtZWQyNTUxOQAAACD6xLloOwIK60Xafif4zqTkuQpV/2hiWb7YmFWSkY68uQ\n"
    "AAAECr7Cn3BAiFPUE9lTQEM/R/L8R2uCzt85vBYcXxaURiRvrEuWg7AgrrRdp+J/jOpOS5\n"
    "ClX/aGJZvtiYVZKRjry5AAAABHRlc3QB\n"
    "-----END OPENSSH PRIVATE KEY-----\n";
static const char public[] = "AAAAC3NzaC1lZDI1NTE5AAAAIPrEuWg7AgrrRdp+J/jOpOS5ClX/aGJZvtiYVZKRjry5";

struct room {
	char path[40];
	int dir;
	struct loop loop;
	struct audit a;
};

static void
open_log(struct room *r, uint64_t file_max, uint64_t position)
{
	const struct audit_options o = {file_max, "soon", "root"};
	struct err err;

	assert_int_equal(audit_open(&r->a, &r->loop, r->dir, str_of(private), &o, position, &err), 0);
	r->a.max_bytes = file_max;
}

static int
setup(void **state)
{
	struct room *r = xnew(1, sizeof *r);
	struct err err;

	memcpy(r->path, "/tmp/berth-audit-XXXXXX", 24);
	assert_non_null(mkdtemp(r->path));
	r->dir = open(r->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(loop_init(&r->loop, &err), 0);
	*state = r;
	return 0;
}

static int
teardown(void **state)
{
	struct room *r = *state;
	struct err err;

	audit_close(&r->a);
	loop_done(&r->loop);
	close(r->dir);
	const int root = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	const int gone = path_remove_tree(root, r->path + 1, &err);
	close(root);
	free(r);
	return gone;
}

static void
fill_log(struct room *r, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		audit_write(&r->a, "note", AUDIT_NUMBER("n", i), AUDIT_TEXT("text", "a \"word\"\n\x01\xff"));
}

static void
found(void *ctx, bool broken, const char *file, uint64_t line, const char *words)
{
	char *first = ctx;

	if (broken && first && !first[0])
		snprintf(first, 200, "%s:%llu %s", file ? file : "", (unsigned long long)line, words);
}

/* How much is wrong with the log in a directory; `head` empty: none was kept. */
static uint64_t
wrong(int dir, struct str head, char first[200])
{
	struct check c = {.keys = {public}, .n_keys = 1, .head = head, .fn = found, .ctx = first};
	struct err err;

	if (first)
		first[0] = '\0';
	assert_int_equal(check_log(dir, &c, &err), 0);
	return c.found;
}

static int
log_dir(struct room *r)
{
	const int fd = openat(r->dir, "audit", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

static void
assert_whole(struct room *r)
{
	auto_close int dir = log_dir(r);
	char first[200];
	const uint64_t n = wrong(dir, (struct str){NULL, 0}, first);

	assert_string_equal(first, "");
	assert_int_equal(n, 0);
}

static void
a_log_is_whole_over_files_and_restarts(void **state)
{
	struct room *r = *state;
	struct chain_files files;
	struct err err;

	open_log(r, 16384, 0);
	fill_log(r, 700);
	assert_whole(r);
	audit_close(&r->a);
	open_log(r, 16384, 0);
	fill_log(r, 3);
	assert_whole(r);
	const uint64_t seq = r->a.chain.seq;
	assert_int_equal(chain_list(r->a.dir, &files, &err), 0);
	assert_true(files.n > 4);
	assert_int_equal(files.first[0], 1);
	chain_files_done(&files);
	audit_close(&r->a);
	open_log(r, 16384, seq); /* stop, head, start, head */
	assert_int_equal(r->a.chain.seq, seq + 4);
	assert_whole(r);
}

static void
what_the_index_knows_and_the_log_has_not_is_told_of(void **state)
{
	struct room *r = *state;
	auto_buf text = BUF_MAX(65536);
	struct err err;

	open_log(r, 1 << 20, 99);
	auto_close int dir = log_dir(r);
	assert_int_equal(path_read(dir, "00000000000000000001.jsonl", &text, &err), 0);
	assert_non_null(strstr(buf_cstr(&text), "\"kind\":\"lost\",\"from\":1,\"to\":99}"));
}

/* ---- the private key ---- */

static void
a_key_that_is_cut_or_changed_is_refused(void **state)
{
	auto_buf text = BUF_MAX(65536);
	unsigned seed = 7, taken = 0;
	struct err err;

	(void)state;
	struct signature_key *k = signature_key_load(str_of(private), &err);
	assert_non_null(k);
	assert_string_equal(signature_key_public(k), public);
	signature_key_free(k);
	for (size_t n = 0; n < sizeof private - 2; n++) /* all but the last newline */
		if ((k = signature_key_load((struct str){private, n}, &err))) {
			assert_int_equal(n, sizeof private - 2);
			signature_key_free(k);
		}
	for (int i = 0; i < 20000; i++) {
		buf_clear(&text);
		buf_text(&text, private);
		for (int j = rand_r(&seed) % 4; j >= 0; j--)
			text.at[(size_t)rand_r(&seed) % text.len] = (char)rand_r(&seed);
		if ((k = signature_key_load(buf_view(&text), &err)))
			taken++;
		signature_key_free(k);
	}
	assert_true(taken < 20000); /* a changed comment or check word does no harm */
}

/* ---- mutations ---- */

static void
read_all(int dir, struct chain_files *files, struct buf *texts)
{
	struct err err;

	assert_int_equal(chain_list(dir, files, &err), 0);
	for (size_t i = 0; i < files->n; i++) {
		char name[CHAIN_FILE_NAME_BYTES];
		chain_file_name(files->first[i], name);
		texts[i] = BUF_MAX(1 << 20);
		assert_int_equal(path_read(dir, name, &texts[i], &err), 0);
	}
}

static void
write_file(int dir, uint64_t first, struct str bytes)
{
	char name[CHAIN_FILE_NAME_BYTES];
	struct err err;

	chain_file_name(first, name);
	auto_close int fd = openat(dir, name, O_WRONLY | O_TRUNC | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(fd_write_all(fd, bytes.at, bytes.len, &err), 0);
}

/* Some way to change a text; false: it came out the same. */
static bool
mutate(const struct buf *from, struct buf *to, unsigned *seed)
{
	const size_t at = (size_t)rand_r(seed) % from->len;
	const size_t n = 1 + (size_t)rand_r(seed) % (from->len - at);

	buf_clear(to);
	buf_add(to, from->at, at);
	switch (rand_r(seed) % 6) {
	case 0: /* a bit */
		buf_char(to, (char)(from->at[at] ^ 1 << rand_r(seed) % 8));
		buf_add(to, from->at + at + 1, from->len - at - 1);
		break;
	case 1: /* a part left out */
		buf_add(to, from->at + at + n, from->len - at - n);
		break;
	case 2: /* a part twice */
		buf_add(to, from->at + at, n);
		buf_add(to, from->at + at, from->len - at);
		break;
	case 3: /* a byte more */
		buf_char(to, (char)rand_r(seed));
		buf_add(to, from->at + at, from->len - at);
		break;
	case 4: /* cut */
		break;
	default: { /* a byte that could pass for another */
		static const char likely[] = "0123456789abcdefABCDEF\"{},:\n =";
		buf_char(to, likely[(size_t)rand_r(seed) % (sizeof likely - 1)]);
		buf_add(to, from->at + at + 1, from->len - at - 1);
		break;
	}
	}
	return !str_equal(buf_view(from), buf_view(to));
}

static struct str
last_line(const struct buf *b)
{
	struct str rest = buf_view(b), line, last = {NULL, 0};

	while (str_cut(&rest, '\n', &line))
		if (line.len)
			last = line;
	return last;
}

/* With the log's last head kept elsewhere, nothing that is done to it passes. */
static void
every_change_is_found(void **state)
{
	enum { FILES = 8, ROUNDS = 2500 };
	struct room *r = *state;
	struct buf texts[FILES], head = BUF_MAX(4096);
	struct chain_files files;
	auto_buf changed = BUF_MAX(2 << 20);
	unsigned seed = 20260101;
	char first[200];

	open_log(r, 4096, 0);
	fill_log(r, 60);
	audit_close(&r->a);
	auto_close int dir = log_dir(r);
	read_all(dir, &files, texts);
	assert_true(files.n > 2 && files.n <= FILES);
	buf_str(&head, last_line(&texts[files.n - 1]));
	assert_int_equal(wrong(dir, buf_view(&head), first), 0);
	for (int i = 0; i < ROUNDS; i++) {
		const size_t which = (size_t)rand_r(&seed) % files.n;
		if (!mutate(&texts[which], &changed, &seed))
			continue;
		write_file(dir, files.first[which], buf_view(&changed));
		if (wrong(dir, buf_view(&head), first) == 0)
			fail_msg("round %d: a change of file %zu was not found:\n%s", i, which,
				 buf_cstr(&changed));
		write_file(dir, files.first[which], buf_view(&texts[which]));
	}
	assert_int_equal(wrong(dir, buf_view(&head), first), 0);
	for (size_t i = 0; i < files.n; i++)
		buf_free(&texts[i]);
	buf_free(&head);
	chain_files_done(&files);
}

/* ---- what could not be written ---- */

static void
a_torn_line_is_left_and_told_of(void **state)
{
	struct room *r = *state;
	struct str torn[] = {STR_LIT("{"), STR_LIT("{\"seq\":5,\"prev\":\""), STR_LIT("\0\0\0\0")};

	for (size_t i = 0; i < 3; i++) {
		char name[CHAIN_FILE_NAME_BYTES];
		struct err err;
		struct chain_files files;
		open_log(r, 1 << 20, 0);
		fill_log(r, 2);
		assert_int_equal(chain_list(r->a.dir, &files, &err), 0);
		assert_int_equal(files.n, i + 1);
		chain_file_name(files.first[files.n - 1], name);
		chain_files_done(&files);
		audit_close(&r->a);
		auto_close int dir = log_dir(r);
		auto_close int fd = openat(dir, name, O_WRONLY | O_APPEND | O_CLOEXEC);
		assert_int_equal(write(fd, torn[i].at, torn[i].len), torn[i].len);
		assert_int_equal(wrong(dir, (struct str){NULL, 0}, NULL), 1);
	}
	open_log(r, 1 << 20, 0);
	assert_whole(r);
}

static void
a_file_without_a_line_is_begun_anew(void **state)
{
	struct room *r = *state;

	open_log(r, 1 << 20, 0);
	fill_log(r, 2);
	const uint64_t next = r->a.chain.seq + 3; /* stop, head */
	audit_close(&r->a);
	auto_close int dir = log_dir(r);
	write_file(dir, next, STR_LIT("{\"seq\":"));
	open_log(r, 1 << 20, 0);
	assert_int_equal(r->a.chain.seq, next + 2); /* cut, start, head */
	assert_whole(r);
}

/* RLIMIT_FSIZE stands for a disk that is full in the middle of a line. */
static void
what_does_not_fit_is_taken_back_counted_and_told_of(void **state)
{
	struct room *r = *state;
	struct rlimit was, small;
	auto_buf text = BUF_MAX(65536);
	struct err err;

	open_log(r, 1 << 20, 0);
	fill_log(r, 5);
	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &was);
	small = was;
	small.rlim_cur = r->a.bytes + 100;
	setrlimit(RLIMIT_FSIZE, &small);
	const uint64_t before = r->a.chain.seq;
	fill_log(r, 4);
	struct call_row call = {.id = "c_aaaaaaaaaaaaaaaa", .session = "s_aaaaaaaaaaaaaaaa"};
	assert_int_equal(audit_call(&r->a, &call, "x", false, &err), -1);
	assert_int_equal(r->a.chain.seq, before);
	assert_int_equal(r->a.unwritten, 4);
	setrlimit(RLIMIT_FSIZE, &was);
	fill_log(r, 1);
	assert_int_equal(r->a.chain.seq, before + 2);
	assert_int_equal(r->a.unwritten, 0);
	auto_close int dir = log_dir(r);
	assert_int_equal(path_read(dir, "00000000000000000001.jsonl", &text, &err), 0);
	assert_non_null(strstr(buf_cstr(&text), "\"kind\":\"unwritten\",\"lines\":4,"));
	assert_whole(r);
}

/* ---- calls ---- */

static void
a_call_is_written_once_whatever_becomes_of_its_transaction(void **state)
{
	struct room *r = *state;
	struct call_row a = {.id = "c_aaaaaaaaaaaaaaaa", .session = "s_aaaaaaaaaaaaaaaa"};
	struct call_row b = {.id = "c_bbbbbbbbbbbbbbbb", .session = "s_aaaaaaaaaaaaaaaa"};
	uint64_t position, seq;
	struct err err;

	open_log(r, 4096, 0);
	assert_int_equal(audit_call(&r->a, &a, "x", false, &err), 0);
	audit_calls_rolled_back(&r->a);
	seq = r->a.chain.seq;
	assert_int_equal(audit_calls_position(&r->a, &position, &err), 0);
	assert_int_equal(position, seq - 1); /* before the line whose record is nowhere else */
	assert_int_equal(audit_call(&r->a, &a, "x", false, &err), 0);
	assert_int_equal(r->a.chain.seq, seq);
	audit_calls_committed(&r->a);
	assert_int_equal(audit_call(&r->a, &b, "x", false, &err), 0);
	assert_int_equal(audit_call(&r->a, &a, "x", true, &err), 0);
	assert_int_equal(audit_calls_position(&r->a, &position, &err), 0);
	fill_log(r, 60); /* files further on; then the manager dies before the commit */
	audit_close(&r->a);

	open_log(r, 4096, seq);
	seq = r->a.chain.seq;
	assert_int_equal(audit_call(&r->a, &b, "x", false, &err), 0);
	assert_int_equal(audit_call(&r->a, &a, "x", true, &err), 0);
	assert_int_equal(r->a.chain.seq, seq);
	assert_int_equal(audit_call(&r->a, &b, "x", true, &err), 0);
	assert_int_equal(r->a.chain.seq, seq + 1);
	assert_int_equal(audit_calls_position(&r->a, &position, &err), 0);
	assert_int_equal(position, seq + 1);
	audit_calls_committed(&r->a);
	assert_null(r->a.seen);
	assert_whole(r);
}

int
main(void)
{
#define IN_ROOM(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
	const struct CMUnitTest tests[] = {
	    IN_ROOM(a_log_is_whole_over_files_and_restarts),
	    IN_ROOM(what_the_index_knows_and_the_log_has_not_is_told_of),
	    cmocka_unit_test(a_key_that_is_cut_or_changed_is_refused),
	    IN_ROOM(every_change_is_found),
	    IN_ROOM(a_torn_line_is_left_and_told_of),
	    IN_ROOM(a_file_without_a_line_is_begun_anew),
	    IN_ROOM(what_does_not_fit_is_taken_back_counted_and_told_of),
	    IN_ROOM(a_call_is_written_once_whatever_becomes_of_its_transaction),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
