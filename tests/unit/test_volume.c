/* Invariants of volume.c, loopdev.c and pool.c: one filesystem however often it is mounted, one
 * device a file, a limit that moves, nothing left. Needs root and loop devices; says what is
 * missing. */
#include "server/manager/volume.c"

#include "base/time.h"
#include "manager/pool.h"

#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/vfs.h>

#include <cmocka.h>

enum { MIB = 1 << 20 };

static struct {
	char top[64];
	int dir;
	struct loopdevs loops;
	char missing[600];
} room;

#define assert_ok(call)                                                                            \
	do {                                                                                       \
		struct err room_why = {.code = ERR_NONE};                                          \
		struct err *const room_err = &room_why;                                            \
		if ((call) < 0)                                                                    \
			fail_msg("%s: %s", #call, room_why.why);                                   \
	} while (0)

static int
room_open(void **state)
{
	struct err err = {0};
	int number;

	(void)state;
	memcpy(room.top, "/var/tmp/berth-volume-XXXXXX", 29);
	assert_non_null(mkdtemp(room.top));
	room.dir = open(room.top, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	auto_close int file = -1;
	auto_close int root = -1;
	if (loopdev_scan(&room.loops, &err) < 0 || volume_make(room.dir, "probe", 1, &err) < 0 ||
	    (file = path_open(room.dir, "probe", O_RDWR, &err)) < 0 ||
	    (root = volume_mount(&room.loops, file, true, &number, &err)) < 0)
		snprintf(room.missing, sizeof room.missing, "skipped: %s\n", err.why);
	return 0;
}

static int
room_close(void **state)
{
	struct err err;

	(void)state;
	auto_close int root = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	loopdev_free(&room.loops);
	close(room.dir);
	return path_remove_tree(root, room.top + 1, &err);
}

static void
room_or_skip(void)
{
	if (!room.missing[0])
		return;
	print_message("%s", room.missing);
	skip();
}

/* Made, opened and mounted. */
struct mounted {
	int file, root, number;
};

static struct mounted
mount_new(const char *name)
{
	struct mounted m = {-1, -1, -1};

	assert_ok(volume_make(room.dir, name, 1, room_err));
	assert_ok(m.file = path_open(room.dir, name, O_RDWR, room_err));
	assert_ok(m.root = volume_mount(&room.loops, m.file, true, &m.number, room_err));
	return m;
}

static void
unmount(struct mounted *m)
{
	fd_close(&m->root);
	fd_close(&m->file);
}

static bool
is_attached(int number)
{
	char path[48];

	snprintf(path, sizeof path, "/sys/block/loop%d/loop", number);
	return access(path, F_OK) == 0;
}

/* The kernel lets go of a device beside us, and tells nobody. */
static void
wait_detached(int number)
{
	const uint64_t until = time_now_ns() + 20 * NS_PER_S;

	while (is_attached(number)) {
		assert_true(time_now_ns() < until);
		poll(NULL, 0, 5);
	}
}

/* How much of `bytes` can be written into a new file. */
static uint64_t
fill(int root, const char *name, uint64_t bytes)
{
	static char block[64 << 10];
	uint64_t done = 0;

	auto_close int file = openat(root, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	assert_true(file >= 0);
	while (done < bytes) {
		const ssize_t n = write(file, block, sizeof block);
		if (n <= 0)
			break;
		done += (uint64_t)n;
	}
	return done;
}

static void
test_it_holds_what_its_limit_says_and_the_limit_moves(void **state)
{
	struct volume_use use;
	uint64_t bytes = 0;

	(void)state;
	room_or_skip();
	struct mounted m = mount_new("limit");
	assert_ok(volume_limit(m.number, m.root, 8 * MIB, &bytes, room_err));
	assert_int_equal(bytes, 8 * MIB);
	const uint64_t first = fill(m.root, "a", 64 * MIB);
	assert_in_range(first, 6 * MIB, 8 * MIB);
	assert_ok(volume_limit(m.number, m.root, 16 * MIB, &bytes, room_err));
	assert_in_range(fill(m.root, "b", 64 * MIB), 6 * MIB, 9 * MIB);
	assert_ok(volume_limit(m.number, m.root, 4 * MIB, &bytes, room_err));
	assert_int_equal(fill(m.root, "c", MIB), 0);
	assert_ok(volume_read(m.root, m.file, &use, room_err));
	assert_in_range(use.used, 14 * MIB, 16 * MIB);
	assert_ok(volume_limit(m.number, m.root, 0, &bytes, room_err));
	assert_true(bytes > VOLUME_BYTES / 2);
	assert_ok(volume_limit(m.number, m.root, VOLUME_MOST_BYTES, &bytes, room_err));
	assert_true(bytes < VOLUME_BYTES); /* said, not promised */
	unmount(&m);
}

static void
test_what_is_written_and_not_yet_in_the_file_is_owed(void **state)
{
	struct volume_use use;

	(void)state;
	room_or_skip();
	struct mounted m = mount_new("owed");
	assert_int_equal(fill(m.root, "a", 32 * MIB), 32 * MIB);
	assert_ok(volume_read(m.root, m.file, &use, room_err));
	const uint64_t before = use.used - use.owed; /* what the file has taken by now */
	auto_close int real = openat(m.root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(syncfs(real), 0);
	assert_ok(volume_read(m.root, m.file, &use, room_err));
	assert_int_equal(use.owed, 0);
	assert_true(use.used >= 32 * MIB && before <= use.used);
	fd_close(&real);
	unmount(&m);
}

static void
test_two_mounts_are_one_filesystem_on_one_device(void **state)
{
	struct stat a, b;
	int number = -1;

	(void)state;
	room_or_skip();
	struct mounted m = mount_new("twice");
	auto_close int again = -1;
	assert_ok(again = volume_mount(&room.loops, m.file, true, &number, room_err));
	assert_int_equal(number, m.number);
	assert_int_equal(fill(m.root, "a", 64 << 10), 64 << 10);
	assert_int_equal(fstatat(m.root, "a", &a, 0), 0);
	assert_int_equal(fstatat(again, "a", &b, 0), 0);
	assert_true(a.st_dev == b.st_dev && a.st_ino == b.st_ino);
	/* an earlier manager's: what is attached is found, and nothing is attached beside it */
	struct loopdevs later = {0};
	assert_ok(loopdev_scan(&later, room_err));
	auto_close int found = -1;
	assert_ok(found = volume_mount(&later, m.file, false, &number, room_err));
	assert_int_equal(number, m.number);
	loopdev_free(&later);
	/* the first goes, the others keep it; the last lets go of all */
	fd_close(&m.root);
	fd_close(&again);
	assert_true(is_attached(m.number));
	fd_close(&found);
	wait_detached(m.number);
	fd_close(&m.file);
}

static void
test_one_that_nobody_has_mounted_is_attached_only_when_asked(void **state)
{
	struct err err;
	int number;

	(void)state;
	room_or_skip();
	struct mounted m = mount_new("asked");
	fd_close(&m.root);
	wait_detached(m.number);
	assert_int_equal(volume_mount(&room.loops, m.file, false, &number, &err), -1);
	assert_int_equal(err.code, ERR_ABSENT);
	const struct loopdevs blind = {0}; /* never scanned: it may be attached, for all it knows */
	struct loopdevs l = blind;
	assert_int_equal(volume_mount(&l, m.file, true, &number, &err), -1);
	assert_int_equal(err.code, ERR_UNAVAILABLE);
	assert_ok(m.root = volume_mount(&room.loops, m.file, true, &m.number, room_err));
	unmount(&m);
}

static void
test_what_is_no_filesystem_is_an_error_and_left_alone(void **state)
{
	struct err err;
	int number = -1;

	(void)state;
	room_or_skip();
	auto_close int file = -1;
	assert_ok(file = volume_create(room.dir, "empty", 1, room_err));
	assert_false(volume_is_whole(room.dir, "empty"));
	fd_close(&file);
	assert_ok(file = path_open(room.dir, "empty", O_RDWR, room_err));
	assert_int_equal(volume_mount(&room.loops, file, true, &number, &err), -1);
	assert_non_null(strstr(err.hint, "e2fsck"));
	assert_true(path_exists(room.dir, "empty"));
	wait_detached(number);
}

static void
test_a_large_limit_gets_a_larger_file(void **state)
{
	struct stat st;

	(void)state;
	auto_close int file = -1;
	assert_ok(file = volume_create(room.dir, "large", VOLUME_BYTES, room_err));
	assert_int_equal(fstat(file, &st), 0);
	assert_int_equal(st.st_size, 2 * VOLUME_BYTES);
	assert_int_equal(st.st_blocks, 0);
}

static void
test_the_pool_gives_whole_ones_and_is_filled_again(void **state)
{
	struct loop loop;
	struct pool *pool = NULL;
	char name[16];

	(void)state;
	room_or_skip();
	assert_ok(loop_init(&loop, room_err));
	assert_ok(pool_open(&loop, room.dir, &pool, room_err));
	for (int i = 0; i < 3; i++) {
		snprintf(name, sizeof name, "take-%d", i % 100);
		auto_close int dir = -1;
		assert_ok(dir = path_open_dir(room.dir, name, 0700, room_err));
		assert_ok(pool_take(pool, 1, dir, room_err));
		assert_true(volume_is_whole(dir, VOLUME_NAME));
		auto_close int pooled = -1;
		assert_ok(pooled = path_open(room.dir, "pool", O_RDONLY | O_DIRECTORY, room_err));
		snprintf(name, sizeof name, "%d", i); /* the next that is given out */
		while (!volume_is_whole(pooled, name))
			assert_ok(loop_turn(&loop, 20 * NS_PER_S, room_err));
	}
	pool_close(pool);
	/* what lies there may have been written into before a power cut */
	assert_ok(pool_open(&loop, room.dir, &pool, room_err));
	assert_false(path_exists(room.dir, "pool/2"));
	pool_close(pool);
	loop_done(&loop);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_it_holds_what_its_limit_says_and_the_limit_moves),
	    cmocka_unit_test(test_what_is_written_and_not_yet_in_the_file_is_owed),
	    cmocka_unit_test(test_two_mounts_are_one_filesystem_on_one_device),
	    cmocka_unit_test(test_one_that_nobody_has_mounted_is_attached_only_when_asked),
	    cmocka_unit_test(test_what_is_no_filesystem_is_an_error_and_left_alone),
	    cmocka_unit_test(test_a_large_limit_gets_a_larger_file),
	    cmocka_unit_test(test_the_pool_gives_whole_ones_and_is_filled_again),
	};
	return cmocka_run_group_tests(tests, room_open, room_close);
}
