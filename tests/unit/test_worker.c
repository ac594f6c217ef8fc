/* worker.c as its manager sees it: a process of its own, confined, over a real socket. */
#define main worker_main
#include "server/worker/worker.c"
#undef main

#include "tree_room.h"

static struct wire manager;
static pid_t worker;

static void
start(int upper)
{
	int pair[2];
	struct err err;

	must(wire_pair(pair, &err), &err);
	worker = fork();
	ok(worker);
	if (worker == 0) {
		if (dup2(pair[1], MANAGER_FD) < 0)
			_exit(99);
		closefrom(MANAGER_FD + 1);
		_exit(worker_main());
	}
	close(pair[1]);
	must(wire_open(&manager, pair[0], ROLE_MANAGER, ROLE_WORKER, PHASE_OPEN, &err), &err);
	const int fds[4] = {room.store, room.cache, upper, room.scratch};
	must(wire_send_fds(&manager, MSG_job,
			   &(struct msg_job){.subject = STR_LIT("demo"), .level = 1, .threads = 2},
			   fds, 4, &err),
	     &err);
}

static struct message *
answer(void)
{
	struct err err;
	do
		must(wire_recv_wait(&manager, time_now_ns() + 60 * NS_PER_S, &err), &err);
	while (manager.message.id == MSG_progress);
	return &manager.message;
}

static int
end(void)
{
	int status = -1;
	wire_close(&manager);
	assert_int_equal(waitpid(worker, &status, 0), worker);
	return status;
}

static struct digest
take(struct str bytes)
{
	struct digest d;
	assert_int_equal(bytes.len, sizeof d);
	memcpy(d.at, bytes.at, sizeof d);
	return d;
}

#define DIGEST(d)                                                                                  \
	{                                                                                          \
		(const char *)(d).at, sizeof(d).at                                                 \
	}

static void
test_a_job_from_capture_to_cache(void **state)
{
	struct err err;
	struct message *m;

	(void)state;
	put_rich_tree(room.upper);
	start(room.upper);
	must(wire_send(&manager, capture, &err, .trust_nothing = 0), &err);
	m = answer();
	assert_int_equal(m->id, MSG_captured);
	assert_true(m->captured.entries > 30);
	const struct digest layer = take(m->captured.digest), diff_id = take(m->captured.diff_id);
	const uint64_t bytes = m->captured.bytes;
	must(wire_send(&manager, capture, &err, .trust_nothing = 0), &err);
	m = answer();
	assert_int_equal(m->id, MSG_captured);
	assert_int_equal(m->captured.entries, 0);
	assert_int_equal(m->captured.digest.len, 0);

	uint8_t size[8];
	for (int i = 0; i < 8; i++)
		size[i] = (uint8_t)(bytes >> 8 * i);
	must(wire_send(&manager, snapshot_write, &err, .session = STR_LIT("s_aaaaaaaaaaaaaaaa"),
		       .session_name = STR_LIT("demo"), .layers = DIGEST(layer),
		       .diff_ids = DIGEST(diff_id), .sizes = {(const char *)size, 8},
		       .image = STR_LIT("host:1234"), .made_by = STR_LIT("pause"),
		       .calls = STR_LIT("c_1 c_2"),
		       .facts = STR_LIT("{\"note\":\"a \\\"note\\\"\"}"), .fingerprint = STR_LIT("f"),
		       .created_ns = 1234567890123456789ull),
	     &err);
	m = answer();
	assert_int_equal(m->id, MSG_snapshot_written);
	const struct digest manifest = take(m->snapshot_written.manifest);
	auto_manifest back = {0};
	must(oci_load(room.store, &manifest, &back, &err), &err);
	assert_int_equal(back.n_layers, 1);
	assert_true(digest_equal(&back.layers[0].diff_id, &diff_id));
	assert_int_equal(back.layers[0].bytes, bytes);
	assert_string_equal(back.made_by, "pause");
	assert_string_equal(back.created, "2009-02-13T23:31:30.123Z");
	auto_buf ref = BUF_MAX(65536);
	char name[100];
	snprintf(name, sizeof name, "refs/%s.json", digest_text(&manifest).text);
	must(path_read(room.store, name, &ref, &err), &err);
	assert_non_null(strstr(buf_cstr(&ref), "\"facts\":{\"note\":\"a \\\"note\\\"\"}"));
	assert_non_null(strstr(buf_cstr(&ref), "\"calls\":\"c_1 c_2\""));
	must(wire_send(&manager, snapshot_facts, &err, .manifest = DIGEST(manifest),
		       .facts = STR_LIT("{\"name\":\"good\",\"pinned\":true}")),
	     &err);
	assert_int_equal(answer()->id, MSG_worked);
	buf_clear(&ref);
	must(path_read(room.store, name, &ref, &err), &err);
	assert_non_null(strstr(buf_cstr(&ref), "\"facts\":{\"name\":\"good\",\"pinned\":true}"));
	assert_non_null(strstr(buf_cstr(&ref), "\"session_name\":\"demo\""));
	must(wire_send(&manager, snapshot_facts, &err, .manifest = DIGEST(layer),
		       .facts = STR_LIT("{}")),
	     &err);
	m = answer();
	assert_int_equal(m->id, MSG_work_failed);
	assert_int_equal(m->work_failed.code, ERR_ABSENT);

	must(wire_send(&manager, session_ref, &err, .id = STR_LIT("s_aaaaaaaaaaaaaaaa"),
		       .json = STR_LIT("{\"name\":\"demo\"}")),
	     &err);
	assert_int_equal(answer()->id, MSG_worked);
	assert_true(path_exists(room.store, "refs/session-s_aaaaaaaaaaaaaaaa.json"));
	const struct digest into = digest_of(STR_LIT("into"));
	must(wire_send(&manager, unpack, &err, .layers = DIGEST(layer), .flat = DIGEST(layer),
		       .into = DIGEST(into)),
	     &err);
	bool told[2] = {false, false};
	while ((m = answer())->id == MSG_unpacked) {
		const struct digest made = take(m->unpacked.digest);
		assert_true(cache_layer_trusted(room.cache, &made));
		assert_true(digest_equal(&made, &layer) || digest_equal(&made, &into));
		told[digest_equal(&made, &into)] = true;
	}
	assert_int_equal(m->id, MSG_worked);
	assert_true(told[0] && told[1]);
	must(wire_send(&manager, sync_cache, &err, .digests = DIGEST(layer)), &err);
	assert_int_equal(answer()->id, MSG_worked);
	assert_true(cache_layer_trusted(room.cache, &layer));
	snprintf(name, sizeof name, "layers/%s.json", digest_text(&layer).text);
	auto_buf marker = BUF_MAX(4096);
	must(path_read(room.cache, name, &marker, &err), &err);
	assert_non_null(strstr(buf_cstr(&marker), "\"synced\":true"));
	const int unpacked = open_layer(&layer);
	assert_same_tree(room.upper, unpacked, true);
	close(unpacked);
	assert_int_equal(end(), 0);
	assert_no_temp(room.store);
	assert_no_temp(room.cache);
}

static void
test_a_failed_request_is_said_and_the_next_one_served(void **state)
{
	const struct digest none = digest_of(STR_LIT("none"));
	struct err err;

	(void)state;
	start(room.upper);
	must(wire_send(&manager, unpack, &err, .layers = DIGEST(none)), &err);
	struct message *m = answer();
	assert_int_equal(m->id, MSG_work_failed);
	assert_int_equal(m->work_failed.code, ERR_CORRUPT);
	assert_true(m->work_failed.why.len > 10);
	must(wire_send(&manager, session_ref, &err, .id = STR_LIT("../x"), .json = STR_LIT("{}")),
	     &err);
	assert_int_equal(answer()->id, MSG_work_failed);
	must(wire_send(&manager, session_ref, &err, .id = STR_LIT("s_aaaaaaaaaaaaaaaa"),
		       .json = STR_LIT("not json")),
	     &err);
	assert_int_equal(answer()->id, MSG_work_failed);
	must(wire_send(&manager, unpack, &err, .flat = STR_LIT("cut"), .into = DIGEST(none)), &err);
	assert_int_equal(answer()->id, MSG_work_failed);
	must(wire_send(&manager, unpack, &err, .flat = DIGEST(none)), &err);
	assert_int_equal(answer()->id, MSG_work_failed);
	must(wire_send(&manager, snapshot_write, &err, .sizes = STR_LIT("12345678")), &err);
	assert_int_equal(answer()->id, MSG_work_failed);
	must(wire_send(&manager, sync_cache, &err, .digests = {NULL, 0}), &err);
	assert_int_equal(answer()->id, MSG_worked);
	assert_int_equal(end(), 0);
}

static void
test_eof_in_the_middle_of_work_ends_it_and_leaves_nothing(void **state)
{
	struct err err;
	char *noise = malloc(8 << 20);

	(void)state;
	for (size_t i = 0; i < 8 << 20; i++)
		noise[i] = (char)(i * 2654435761u >> 11);
	for (int i = 0; i < 8; i++) {
		char name[32];
		snprintf(name, sizeof name, "noise-%d", i);
		put_file(room.upper, name, noise, 8 << 20);
	}
	free(noise);
	start(room.upper);
	must(wire_send(&manager, sync_cache, &err, .digests = {NULL, 0}), &err);
	assert_int_equal(answer()->id, MSG_worked); /* it is at work */
	must(wire_send(&manager, capture, &err, .trust_nothing = 0), &err);
	assert_int_equal(end(), 0);
	assert_no_temp(room.store);
	assert_no_temp(room.scratch);
	const int blobs = openat(room.store, "blobs/sha256", O_RDONLY | O_DIRECTORY);
	assert_int_equal(blobs >= 0 ? count_names(blobs) : 0, 0);
	close(blobs);
}

static void
test_a_manager_that_breaks_the_table_is_left(void **state)
{
	struct err err;

	(void)state;
	start(room.upper);
	const char junk[] = "junk that is no message";
	ok(send(manager.fd, junk, sizeof junk, 0));
	assert_int_equal(wire_recv_wait(&manager, time_now_ns() + 60 * NS_PER_S, &err), -1);
	assert_int_not_equal(end(), 0);
}

/* In a process of its own: what a taken worker would try. */
static void
test_nothing_outside_the_job_can_be_opened(void **state)
{
	(void)state;
	const pid_t pid = fork();
	ok(pid);
	if (pid == 0) {
		const int dirs[] = {room.store, room.cache, room.upper, room.scratch};
		struct err err;
		struct layer_counts n;
		const struct digest none = digest_of(STR_LIT("none"));
		struct layer_options o = room_options(2);
		if (confine_worker(dirs, 4, &err) < 0)
			_exit(1);
		if (openat(room.dir, "secret", O_RDONLY) >= 0 || errno != EACCES)
			_exit(2);
		if (openat(room.upper, "../secret", O_RDONLY) >= 0 || errno != EACCES)
			_exit(3);
		if (socket(AF_INET, SOCK_STREAM, 0) >= 0 || errno != EPERM)
			_exit(4);
		if (unshare(CLONE_NEWNS) == 0 || mount("x", "/", "tmpfs", 0, "") == 0)
			_exit(5);
		char *const argv[] = {NULL};
		if (execve("/bin/true", argv, argv) == 0 || errno != EPERM)
			_exit(6);
		if (unpack_layer(&o, &none, NULL, &n, &err) == 0 || err.code != ERR_CORRUPT)
			_exit(7);
		_exit(0);
	}
	int status = -1;
	waitpid(pid, &status, 0);
	assert_int_equal(status, 0);
}

static void
test_a_tree_is_removed_whole_and_nothing_beside_it(void **state)
{
	struct err err;

	(void)state;
	put_rich_tree(room.upper);
	start(room.upper);
	must(wire_send(&manager, tree_remove, &err, .unused = 0), &err);
	assert_int_equal(answer()->id, MSG_worked);
	auto_close int copy = openat(room.upper, ".", O_RDONLY | O_DIRECTORY);
	DIR *d = fdopendir(copy);
	unsigned n = 0;
	while (readdir(d))
		n++;
	closedir(d);
	copy = -1;
	assert_int_equal(n, 2); /* . and .. */
	assert_true(path_exists(room.store, ".") && path_exists(room.cache, "."));
	must(wire_send(&manager, tree_remove, &err, .unused = 0), &err);
	assert_int_equal(answer()->id, MSG_worked);
	assert_int_equal(end(), 0);
}

static int
open_with_secret(void **state)
{
	room_open(state);
	put_text(room.dir, "secret", "x");
	return 0;
}

int
main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, room_open, room_close)
	const struct CMUnitTest tests[] = {
	    T(test_a_job_from_capture_to_cache),
	    T(test_a_failed_request_is_said_and_the_next_one_served),
	    T(test_eof_in_the_middle_of_work_ends_it_and_leaves_nothing),
	    T(test_a_manager_that_breaks_the_table_is_left),
	    T(test_a_tree_is_removed_whole_and_nothing_beside_it),
	    cmocka_unit_test_setup_teardown(test_nothing_outside_the_job_can_be_opened,
					    open_with_secret, room_close),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
