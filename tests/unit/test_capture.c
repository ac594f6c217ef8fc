/* capture.c with unpack and compact behind it: what comes out is what went in; numbers are the
 * invariants of capture.c and apply.h. */
#include "snapshot/capture.c"

#include "tree_room.h"

#include <sys/mman.h>

static struct frames_sum sum, sum_b;
static struct layer_counts counts;

static int
run(struct capture *c, unsigned how, struct frames_sum *out)
{
	struct err err;
	const int any = capture_run(c, how, out, &counts, &err);
	must(any, &err);
	return any;
}

static struct capture *
begin(unsigned threads)
{
	const struct layer_options o = room_options(threads);
	struct err err;
	struct capture *c = capture_new(&o, room.upper, room.scratch, &err);
	assert_non_null(c);
	return c;
}

static void
test_a_rich_tree_comes_back_entry_by_entry(void **state)
{
	(void)state;
	put_rich_tree(room.upper);
	struct capture *c = begin(2);
	assert_int_equal(run(c, false, &sum), 1);
	assert_int_equal(counts.torn, 0);
	assert_true(counts.bytes < 8 << 20);
	unpack(&sum.digest, &sum.diff_id);
	const int back = open_layer(&sum.digest);
	assert_same_tree(room.upper, back, true);

	/* and what came back is captured as the same bytes, by any number of threads */
	const struct layer_options o = room_options(5);
	struct err err;
	struct capture *again = capture_new(&o, back, room.scratch, &err);
	struct frames_sum second;
	assert_int_equal(run(again, false, &second), 1);
	assert_true(digest_equal(&sum.digest, &second.digest));
	struct layer_counts n;
	must(verify_layer(&o, &sum.digest, &sum.diff_id, &n, &err), &err);
	assert_int_equal(n.entries, counts.entries);
	assert_no_temp(room.store);
	assert_no_temp(room.cache);
	capture_free(again);
	capture_free(c);
	close(back);
}

static void
test_a_path_longer_than_any_system_call_takes(void **state)
{
	(void)state;
	put_deep_tree(room.upper, 1500);
	struct capture *c = begin(1);
	assert_int_equal(run(c, false, &sum), 1);
	assert_int_equal(counts.entries, 1502);
	unpack(&sum.digest, NULL);
	const struct layer_options o = room_options(1);
	struct err err;
	const int back = open_layer(&sum.digest);
	struct capture *again = capture_new(&o, back, room.scratch, &err);
	struct frames_sum second;
	assert_int_equal(run(again, false, &second), 1);
	assert_true(digest_equal(&sum.digest, &second.digest));
	capture_free(again);
	capture_free(c);
	close(back);
}

static void
test_an_untouched_upper_is_nothing_to_capture(void **state)
{
	(void)state;
	struct capture *c = begin(1);
	assert_int_equal(run(c, false, &sum), 0);
	assert_int_equal(counts.entries, 0);
	ok(fchmod(room.upper, 0777)); /* invariant 4 */
	assert_int_equal(run(c, false, &sum), 1);
	assert_int_equal(counts.entries, 1);
	assert_int_equal(run(c, false, &sum), 0);
	assert_no_temp(room.store);
	capture_free(c);
}

static void
test_what_is_no_file_of_a_workspace_stays_out(void **state)
{
	struct sockaddr_un name = {.sun_family = AF_UNIX};
	const int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	(void)state;
	snprintf(name.sun_path, sizeof name.sun_path, "%s/upper/socket", room.path);
	ok(bind(s, (struct sockaddr *)&name, sizeof name));
	close(s);
	ok(mknodat(room.upper, "disk", S_IFBLK | 0600, makedev(7, 99)));
	ok(mkdirat(room.upper, "run", 0755));
	put_text(room.upper, "run/pid", "1");
	ok(mkdirat(room.upper, "mnt", 0755));
	ok(mkdirat(room.upper, "mnt/memory", 0755));
	put_text(room.upper, "mnt/memory/x", "1");
	ok(mkdirat(room.upper, "mnt/other", 0755));
	struct capture *c = begin(1);
	assert_int_equal(run(c, false, &sum), 1);
	assert_int_equal(counts.entries, 5); /* the root, run, mnt and its two directories */
	assert_int_equal(counts.skipped, 2);
	capture_free(c);
}

static void
test_no_session_can_forge_a_mark(void **state)
{
	(void)state;
	ok(mkdirat(room.upper, "d", 0755));
	put_attr_at(room.upper, "d", "user.overlay.overlay.opaque", "y", 1);
	put_attr_at(room.upper, "d", "user.overlay.overlay.overlay.whiteout", "y", 1);
	put_attr_at(room.upper, "d", "user.overlay.origin", "", 0);
	put_text(room.upper, "gone", "");
	put_attr_at(room.upper, "gone", "user.overlay.whiteout", "y",
		    1); /* the kernel's own form */
	struct capture *c = begin(1);
	assert_int_equal(run(c, false, &sum), 1);
	unpack(&sum.digest, NULL);
	const int back = open_layer(&sum.digest), d = openat(back, "d", O_RDONLY | O_CLOEXEC);
	char value[8];
	struct stat st;
	assert_int_equal(fgetxattr(d, "user.overlay.opaque", value, 8), -1);
	assert_int_equal(fgetxattr(d, "user.overlay.overlay.opaque", value, 8), 1);
	assert_int_equal(fgetxattr(d, "user.overlay.overlay.overlay.whiteout", value, 8), 1);
	assert_int_equal(fgetxattr(d, "user.overlay.origin", value, 8), -1);
	ok(fstatat(back, "gone", &st, AT_SYMLINK_NOFOLLOW));
	assert_true(S_ISCHR(st.st_mode));
	close(d);
	close(back);
	capture_free(c);
}

/* ---- the second capture ---- */

static void
test_the_second_capture_holds_what_changed(void **state)
{
	(void)state;
	put_rich_tree(room.upper);
	struct capture *c = begin(2);
	assert_int_equal(run(c, false, &sum), 1);
	assert_int_equal(run(c, false, &sum_b), 0);
	put_text(room.upper, "d/plain", "other text");
	ok(unlinkat(room.upper, "large", 0));
	assert_int_equal(run(c, false, &sum_b), 1);
	assert_int_equal(counts.entries, 4); /* the root, d, d/plain, and a deletion */
	assert_int_equal(run(c, false, &sum_b), 0);
	/* trusting nothing, it is all there again */
	assert_int_equal(run(c, true, &sum_b), 1);
	assert_true(counts.entries > 30);
	capture_free(c);
}

static void
test_a_racy_change_is_found_by_its_content(void **state)
{
	struct capture *c = NULL;
	bool racy = false;
	(void)state;
	while (!racy) { /* until the capture begins within a tick or two of the change */
		capture_free(c);
		put_text(room.upper, "f", "one");
		c = begin(1);
		assert_int_equal(run(c, false, &sum), 1);
		struct err why;
		for (must(compare_rewind(&c->before, &why), &why); c->before.have;
		     must(compare_next(&c->before, &why), &why))
			racy |=
			    c->before.seen.type == ENTRY_FILE && c->before.seen.flags & SEEN_RACY;
	}
	/* The clock's tick may hide it from all that stat says: so make the record say that it did.
	 */
	put_text(room.upper, "f", "two");
	struct stat st;
	ok(fstatat(room.upper, "f", &st, 0));
	struct err err;
	struct compare forged;
	must(compare_begin(&forged, room.scratch, &err), &err);
	must(compare_rewind(&c->before, &err), &err);
	while (c->before.have) {
		struct seen s = c->before.seen;
		if (s.type == ENTRY_FILE) {
			const struct seen now = seen_of(&st, ENTRY_FILE, 0);
			assert_true(s.flags & SEEN_RACY);
			s.ctime_ns = now.ctime_ns;
			s.mtime_ns = now.mtime_ns;
			assert_true(seen_same(&s, &now));
		}
		must(compare_add(&forged, buf_view(&c->before.path), &s, &err), &err);
		must(compare_next(&c->before, &err), &err);
	}
	compare_done(&c->before);
	c->before = forged;
	assert_int_equal(run(c, false, &sum_b), 1);
	assert_int_equal(counts.files, 1);
	capture_free(c);
}

/* ---- against the kernel: stacks of layers show what the upper showed ---- */

static int
mount_stack(const char *at, const char *lowers, const char *upper)
{
	char options[1024], target[128];

	snprintf(target, sizeof target, "%s/%s", room.path, at);
	mkdir(target, 0755);
	if (upper)
		snprintf(options, sizeof options,
			 "lowerdir=%s,upperdir=%s/%s,workdir=%s/work,userxattr", lowers, room.path,
			 upper, room.path);
	else
		snprintf(options, sizeof options, "lowerdir=%s,userxattr", lowers);
	ok(mount("overlay", target, "overlay", 0, options));
	const int fd = open(target, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ok(fd);
	return fd;
}

static void
unmount_stack(const char *at, int fd)
{
	char target[128];
	close(fd);
	snprintf(target, sizeof target, "%s/%s", room.path, at);
	ok(umount2(target, 0));
}

static void
put_image(int dir)
{
	static const char *const dirs[] = {"a", "a/x", "a/x/deep", "b", "b/x", "c"};
	char name[64];

	for (size_t i = 0; i < sizeof dirs / sizeof *dirs; i++) {
		ok(mkdirat(dir, dirs[i], 0755));
		for (int k = 0; k < 3; k++) {
			snprintf(name, sizeof name, "%s/f%d", dirs[i], k);
			put_text(dir, name, name);
		}
	}
}

static unsigned long seed;

static unsigned
dice(unsigned n)
{
	seed = seed * 6364136223846793005ul + 1442695040888963407ul;
	return (unsigned)(seed >> 33) % n;
}

/* A name of the small world: often one that is there already. */
static const char *
pick(char out[64])
{
	static const char *const tops[] = {"a", "b", "c", "n"},
				 *const inner[] = {"x", "f0", "f1", "y"},
				 *const deep[] = {"deep", "f0", "z"};
	const unsigned depth = dice(3);

	snprintf(out, 64, "%s%s%s%s%s", tops[dice(4)], depth ? "/" : "",
		 depth ? inner[dice(4)] : "", depth > 1 ? "/" : "", depth > 1 ? deep[dice(3)] : "");
	return out;
}

static void
remove_all(int dir, const char *name)
{
	struct err err;
	if (path_remove_tree(dir, name, &err) < 0 &&
	    faccessat(dir, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		must(-1, &err);
}

static void
put_text_if(int dir, const char *name, const char *text)
{
	const int fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd >= 0 && write(fd, text, strlen(text)) < 0)
		fail();
	if (fd >= 0)
		close(fd);
}

/* One random change through the mount: each may fail, as it would for a user. */
static void
change(int dir, unsigned round)
{
	char a[64], b[80], text[64];
	struct stat st;

	pick(a);
	pick(b);
	snprintf(text, sizeof text, "%u %lu", round, seed);
	switch (dice(14)) {
	case 0:
	case 1:
		if (fstatat(dir, a, &st, AT_SYMLINK_NOFOLLOW) < 0 || S_ISREG(st.st_mode))
			put_text_if(dir, a, text);
		return;
	case 2:
		mkdirat(dir, a, 0700 + dice(64));
		return;
	case 3:
		remove_all(dir, a);
		return;
	case 4: /* a directory made anew where one was */
		remove_all(dir, a);
		mkdirat(dir, a, 0755);
		return;
	case 5: /* a file where something was */
		remove_all(dir, a);
		symlinkat(text, dir, a);
		return;
	case 6:
	case 7:
		renameat(dir, a, dir, b);
		return;
	case 8:
		linkat(dir, a, dir, b, 0);
		return;
	case 9:
		fchmodat(dir, a, 0700 + dice(64), 0);
		return;
	case 10: /* a directory moved into a new one */
		if (renameat(dir, a, dir, "moved") == 0) {
			mkdirat(dir, a, 0755);
			snprintf(b, sizeof b, "%s/in", a);
			renameat(dir, "moved", dir, b);
		}
		return;
	default: /* a directory made anew, and what was in it moved back: opaque, with old entries
		  */
		snprintf(b, sizeof b, "%s/y", a);
		if (renameat(dir, b, dir, "moved") == 0) {
			remove_all(dir, a);
			mkdirat(dir, a, 0755);
			renameat(dir, "moved", dir, b);
		} else {
			mkdirat(dir, b, 0755);
			snprintf(b, sizeof b, "%s/y/f%u", a, dice(3));
			put_text_if(dir, b, text);
		}
		return;
	}
}

static const struct digest *
flatten(const struct digest *layers, size_t n)
{
	static struct digest into;
	const struct layer_options o = room_options(2);
	struct layer_counts unused;
	struct err err;

	into = digest_of((struct str){(const char *)layers, n * sizeof *layers});
	must(compact_layers(&o, layers, n, &into, &unused, &err), &err);
	return &into;
}

/* How one capture of a history goes, beside plainly on in the same process. */
enum turn {
	ON,   /* by the process that made the last one */
	ANEW, /* by another one, which is given what that had seen */
	FORGOTTEN, /* by another one, which is given something else: all layers of this upper are replaced */
	CRASHED, /* it made its layer, sealed what it had seen, and nothing was committed */
	TURNS
};

static int
open_seen(const char *name, int flags)
{
	const int fd = openat(room.scratch, name, O_RDWR | O_CREAT | O_CLOEXEC | flags, 0600);
	ok(fd);
	return fd;
}

/* A name for the state after so many layers. */
static struct digest
state_of(const struct digest *layers, size_t n)
{
	return digest_of((struct str){(const char *)layers, n * sizeof *layers});
}

/* One capture as a worker makes it for a running session. *n layers are there before and after. */
static void
captured_by_turn(struct capture **c, enum turn turn, struct digest *layers, size_t *n)
{
	const struct digest head = state_of(layers, *n), other = digest_of(STR_LIT("other"));
	struct err err;

	if (turn != ON) {
		capture_free(*c);
		*c = begin(2);
		const int believed =
		    capture_remember(*c, *n ? open_seen("seen", 0) : -1, open_seen("seen.new", 0),
				     turn == FORGOTTEN ? &other : &head, &err);
		must(believed, &err);
		assert_int_equal(believed, turn != FORGOTTEN && *n > 0);
		if (!believed)
			*n = 0;
	}
	const int any = run(*c, CAPTURE_MAPPED | (*n ? 0 : CAPTURE_ROOT), &sum);
	if (turn == CRASHED) { /* the next one is given the old file, and the old state */
		must(capture_seal(*c, &other, &err), &err);
		capture_free(*c);
		*c = NULL;
		return;
	}
	if (any) {
		layers[(*n)++] = sum.digest;
		unpack(&sum.digest, &sum.diff_id);
	}
	if (turn == ON)
		return;
	const struct digest now = state_of(layers, *n);
	must(capture_seal(*c, &now, &err), &err);
	ok(renameat(room.scratch, "seen.new", room.scratch, "seen"));
}

static void
one_living_history(unsigned changes)
{
	enum { RUNS = 12 };
	struct digest layers[RUNS + 2];
	char lowers[2048] = "", image[128];
	struct capture *c = NULL;
	size_t n = 0;

	const int image_dir = room_dir("image"), work = room_dir("work");
	put_image(image_dir);
	snprintf(image, sizeof image, "%s/image", room.path);
	const int live = mount_stack("live", image, "upper");
	for (unsigned i = 0; i < RUNS; i++) {
		for (unsigned k = dice(changes + 1); k > 0; k--)
			change(live, i);
		const enum turn turn = (enum turn)(1 + dice(TURNS - 1));
		captured_by_turn(&c, n == 0 && turn == CRASHED ? ANEW : turn, layers, &n);
	}
	/* and a pause: two captures of one process */
	captured_by_turn(&c, ANEW, layers, &n);
	for (unsigned k = 0; k < changes; k++)
		change(live, RUNS);
	captured_by_turn(&c, ON, layers, &n);
	for (size_t i = n; i-- > 0;) {
		const size_t at = strlen(lowers);
		char from[512], link[128];
		snprintf(lowers + at, sizeof lowers - at, "%s/l%zu:", room.path, i);
		snprintf(from, sizeof from, "%s/cache/layers/%s", room.path,
			 digest_text(&layers[i]).text);
		snprintf(link, sizeof link, "%s/l%zu", room.path, i);
		ok(symlink(from, link));
	}
	const size_t at = strlen(lowers);
	snprintf(lowers + at, sizeof lowers - at, "%s", image);
	const int stacked = mount_stack("stacked", lowers, NULL);
	assert_same_tree(live, stacked, false);
	unmount_stack("stacked", stacked);
	unmount_stack("live", live);
	capture_free(c);
	close(image_dir);
	close(work);
}

static void
test_layers_show_what_it_was_whatever_process_goes_on(void **state)
{
	for (unsigned i = 0; i < 40; i++) {
		if (i) {
			room_close(state);
			room_open(state);
		}
		seed = i + 1000;
		one_living_history(3 + i);
	}
}

/* What lower layers of the same upper hold, and it no longer does, must not come back. */
static void
test_without_what_was_seen_nothing_that_was_removed_comes_back(void **state)
{
	struct digest layers[4];
	struct capture *c = NULL;
	size_t n = 0;
	(void)state;
	ok(mkdirat(room.upper, "d", 0755));
	put_text(room.upper, "d/gone", "x");
	put_text(room.upper, "gone", "x");
	captured_by_turn(&c, ANEW, layers, &n);
	ok(unlinkat(room.upper, "gone", 0));
	ok(unlinkat(room.upper, "d/gone", 0));
	ok(unlinkat(room.upper, "d", AT_REMOVEDIR));
	captured_by_turn(&c, FORGOTTEN, layers, &n);
	assert_int_equal(n,
			 1); /* a layer for the root alone: it stands for the one that is dropped */
	const int back = open_layer(&layers[0]);
	assert_int_equal(count_names(back), 0);
	close(back);
	capture_free(c);
}

static void
test_what_was_seen_is_believed_whole_or_not_at_all(void **state)
{
	const struct digest head = digest_of(STR_LIT("head"));
	struct err err;
	char byte;
	(void)state;
	put_rich_tree(room.upper);
	struct capture *c = begin(1);
	assert_int_equal(capture_remember(c, -1, open_seen("seen", O_TRUNC), &head, &err), 0);
	assert_int_equal(run(c, 0, &sum), 1);
	must(capture_seal(c, &head, &err), &err);
	assert_int_equal(capture_remember(c, open_seen("seen", 0), -1, &head, &err), 1);
	assert_int_equal(run(c, 0, &sum), 0);
	struct stat st;
	ok(fstatat(room.scratch, "seen", &st, 0));
	const off_t places[] = {
	    0, 8, 60, (off_t)sizeof(struct compare), st.st_size / 2, st.st_size - 1};
	for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
		const int fd = open_seen("seen", 0);
		assert_int_equal(pread(fd, &byte, 1, places[i]), 1);
		byte ^= 1;
		assert_int_equal(pwrite(fd, &byte, 1, places[i]), 1);
		assert_int_equal(capture_remember(c, open_seen("seen", 0), -1, &head, &err), 0);
		byte ^= 1;
		assert_int_equal(pwrite(fd, &byte, 1, places[i]), 1);
		close(fd);
	}
	assert_int_equal(capture_remember(c, open_seen("seen", 0), -1, &head, &err), 1);
	const int fd = open_seen("seen", 0);
	ok(ftruncate(fd, st.st_size - 1));
	close(fd);
	assert_int_equal(capture_remember(c, open_seen("seen", 0), -1, &head, &err), 0);
	assert_int_equal(capture_remember(c, open_seen("empty", 0), -1, &head, &err), 0);
	capture_free(c);
}

/* Who has mapped a file writes on without a new ctime, unless the capture has cleaned its pages. */
static void
test_a_file_that_is_mapped_is_captured_again_after_a_silent_write(void **state)
{
	(void)state;
	put_text(room.upper, "mapped", "one");
	const int fd = openat(room.upper, "mapped", O_RDWR | O_CLOEXEC);
	char *at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_true(at != MAP_FAILED);
	at[0] = 'O'; /* its page is dirty from here on */
	usleep(
	    50000); /* past what is racy (no event tells): the ctime must say it, not the content */
	struct capture *c = begin(1);
	assert_int_equal(run(c, CAPTURE_MAPPED, &sum), 1);
	usleep(50000);
	at[1] = 'N';
	assert_int_equal(run(c, CAPTURE_MAPPED, &sum), 1);
	assert_int_equal(counts.files, 1);
	munmap(at, 4096);
	close(fd);
	capture_free(c);
}

static void
one_history(unsigned changes)
{
	enum { RUNS = 4 };
	struct digest layers[RUNS];
	char lowers[1024] = "", flat[512], image[128];
	size_t n = 0;

	const int image_dir = room_dir("image"), work = room_dir("work");
	put_image(image_dir);
	snprintf(image, sizeof image, "%s/image", room.path);
	int live = mount_stack("live", image, "upper");
	struct capture *c = begin(2);
	for (unsigned run_no = 0; run_no < RUNS; run_no++) {
		for (unsigned i = 0; i < changes; i++)
			change(live, run_no);
		if (run(c, run_no == RUNS - 1 && changes % 2, &sum) != 1)
			continue;
		layers[n++] = sum.digest;
		unpack(&sum.digest, &sum.diff_id);
	}
	for (size_t i = n; i-- > 0;) {
		const size_t at = strlen(lowers);
		snprintf(lowers + at, sizeof lowers - at, "%s/l%zu:", room.path, i);
		snprintf(flat, sizeof flat, "%s/cache/layers/%s", room.path,
			 digest_text(&layers[i]).text);
		char link[128];
		snprintf(link, sizeof link, "%s/l%zu", room.path, i);
		ok(symlink(flat, link)); /* mount(2) takes one page of options */
	}
	const size_t at = strlen(lowers);
	snprintf(lowers + at, sizeof lowers - at, "%s", image);
	const int stacked = mount_stack("stacked", lowers, NULL);
	assert_same_tree(live, stacked, false);
	if (n) {
		snprintf(flat, sizeof flat, "%s/cache/layers/%s:%s", room.path,
			 digest_text(flatten(layers, n)).text, image);
		const int merged = mount_stack("merged", flat, NULL);
		assert_same_tree(live, merged, false);
		unmount_stack("merged", merged);
	}
	unmount_stack("stacked", stacked);
	unmount_stack("live", live);
	capture_free(c);
	close(image_dir);
	close(work);
}

static void
test_layers_show_what_the_workspace_was(void **state)
{
	for (unsigned i = 0; i < 40; i++) {
		if (i) {
			room_close(state);
			room_open(state);
		}
		seed = i + 1;
		one_history(5 + i);
	}
}

static void
test_a_directory_made_anew_is_written_with_its_old_entries(void **state)
{
	char image[128];
	(void)state;
	const int image_dir = room_dir("image"), work = room_dir("work");
	put_image(image_dir);
	snprintf(image, sizeof image, "%s/image", room.path);
	const int live = mount_stack("live", image, "upper");
	ok(mkdirat(live, "a/own", 0755));
	put_text(live, "a/own/file", "unchanged");
	struct capture *c = begin(1);
	assert_int_equal(run(c, false, &sum), 1);
	ok(renameat(live, "a/own", live, "kept"));
	remove_all(live, "a");
	ok(mkdirat(live, "a", 0755));
	ok(renameat(live, "kept", live, "a/own"));
	assert_int_equal(run(c, false, &sum_b), 1);
	assert_int_equal(counts.files,
			 1);              /* invariant 3: the opaque mark hides the first layer's */
	assert_true(counts.entries <= 6); /* root, a, own, file, marks of a and own; no deletions */
	unpack(&sum_b.digest, NULL);
	const int back = open_layer(&sum_b.digest);
	assert_true(path_exists(back, "a/own/file"));
	unmount_stack("live", live);
	capture_free(c);
	close(back);
	close(image_dir);
	close(work);
}

/* What the kernel would mark by itself, and what must hold without: apply.h, invariant 4. */
static void
test_a_merged_directory_that_replaces_something_is_opaque(void **state)
{
	struct digest layers[2];
	char value[4];
	(void)state;
	ok(mknodat(room.upper, "was-deleted", S_IFCHR, makedev(0, 0)));
	put_text(room.upper, "was-file", "x");
	ok(mkdirat(room.upper, "was-dir", 0755));
	struct capture *c = begin(1);
	assert_int_equal(run(c, false, &sum), 1);
	layers[0] = sum.digest;
	static const char *const names[] = {"was-deleted", "was-file", "was-dir"};
	for (int i = 0; i < 2; i++) {
		ok(unlinkat(room.upper, names[i], 0));
		ok(mkdirat(room.upper, names[i], 0700));
	}
	assert_int_equal(run(c, false, &sum), 1);
	layers[1] = sum.digest;
	const int merged = open_layer(flatten(layers, 2));
	for (int i = 0; i < 3; i++) {
		const int fd = openat(merged, names[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		ok(fd);
		assert_int_equal(fgetxattr(fd, "user.overlay.opaque", value, sizeof value),
				 i < 2 ? 1 : -1);
		close(fd);
	}
	close(merged);
	capture_free(c);
}

/* ---- failures ---- */

static int
cancel(void *ctx, uint64_t bytes, uint64_t entries, struct err *err)
{
	unsigned *left = ctx;
	(void)bytes;
	(void)entries;
	return (*left)-- ? 0 : err_set(err, ERR_CANCELLED, "enough");
}

static void
test_a_cancelled_capture_leaves_nothing(void **state)
{
	(void)state;
	put_rich_tree(room.upper);
	for (unsigned at = 0; at < 8; at++) {
		unsigned left = at;
		struct layer_options o = room_options(2);
		struct err err;
		o.watch = (struct layer_watch){.step = cancel, .ctx = &left};
		struct capture *c = capture_new(&o, room.upper, room.scratch, &err);
		const int any = capture_run(c, false, &sum, &counts, &err);
		if (any > 0)
			assert_true(left < 8); /* it ended before its turn came */
		else
			assert_int_equal(err.code, ERR_CANCELLED);
		assert_no_temp(room.store);
		assert_no_temp(room.scratch);
		capture_free(c);
	}
}

static void
test_a_full_disk_is_said_with_numbers_and_leaves_nothing(void **state)
{
	char target[128];
	struct err err;
	(void)state;
	snprintf(target, sizeof target, "%s/small", room.path);
	ok(mkdir(target, 0755));
	ok(mount("tmpfs", target, "tmpfs", 0, "size=1m"));
	const int small = open(target, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	const int random = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
	static char noise[4 << 20];
	must(fd_pread_all(random, noise, sizeof noise, 0, &err), &err);
	close(random);
	put_file(room.upper, "noise", noise, sizeof noise);
	struct layer_options o = room_options(2);
	o.store = small;
	struct capture *c = capture_new(&o, room.upper, room.scratch, &err);
	assert_non_null(c);
	assert_int_equal(capture_run(c, false, &sum, &counts, &err), -1);
	assert_int_equal(err.code, ERR_NO_SPACE);
	assert_non_null(strstr(err.why, "bytes are written"));
	assert_non_null(strstr(err.why, "are free"));
	assert_no_temp(small);

	o.store = room.store;
	o.cache = small;
	struct capture *whole = begin(2);
	assert_int_equal(run(whole, false, &sum), 1);
	struct layer_counts n;
	assert_int_equal(unpack_layer(&o, &sum.digest, NULL, &n, &err), -1);
	assert_int_equal(err.code, ERR_NO_SPACE);
	assert_no_temp(small);
	assert_false(cache_layer_trusted(small, &sum.digest));
	capture_free(whole);
	capture_free(c);
	close(small);
	ok(umount2(target, 0));
}

static void
test_stock_tar_reads_what_is_written(void **state)
{
	char command[512];
	(void)state;
	put_rich_tree(room.upper);
	ok(unlinkat(room.upper, "sparse", 0)); /* tar would write 100 GB of a file with holes */
	struct capture *c = begin(2);
	assert_int_equal(run(c, false, &sum), 1);
	const int plain = room_dir("plain");
	snprintf(command, sizeof command,
		 "tar --zstd --xattrs --xattrs-include='*' -C %s/plain -xpf "
		 "%s/store/blobs/sha256/%s 2>%s/said",
		 room.path, room.path, digest_text(&sum.digest).text, room.path);
	const pid_t pid = fork();
	if (pid == 0) {
		execl("/bin/sh", "sh", "-c", command, (char *)NULL);
		_exit(127);
	}
	int status = -1;
	waitpid(pid, &status, 0);
	assert_int_equal(status, 0);
	static const char *const names[] = {
	    "d/plain", "d/run-me", "links/three", "large",          "holes",
	    "d/fifo",  "d/link",   "new\nline",   "utf-8 \xc3\xa4", "not utf-8 \xff\xfe"};
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (differ_entry(room.upper, plain, names[i], names[i], false))
			fail_msg("%s", difference);
	capture_free(c);
	close(plain);
}

int
main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, room_open, room_close)
	const struct CMUnitTest tests[] = {
	    T(test_a_rich_tree_comes_back_entry_by_entry),
	    T(test_a_path_longer_than_any_system_call_takes),
	    T(test_an_untouched_upper_is_nothing_to_capture),
	    T(test_what_is_no_file_of_a_workspace_stays_out),
	    T(test_no_session_can_forge_a_mark),
	    T(test_the_second_capture_holds_what_changed),
	    T(test_a_racy_change_is_found_by_its_content),
	    T(test_layers_show_what_the_workspace_was),
	    T(test_layers_show_what_it_was_whatever_process_goes_on),
	    T(test_without_what_was_seen_nothing_that_was_removed_comes_back),
	    T(test_what_was_seen_is_believed_whole_or_not_at_all),
	    T(test_a_file_that_is_mapped_is_captured_again_after_a_silent_write),
	    T(test_a_directory_made_anew_is_written_with_its_old_entries),
	    T(test_a_merged_directory_that_replaces_something_is_opaque),
	    T(test_a_cancelled_capture_leaves_nothing),
	    T(test_a_full_disk_is_said_with_numbers_and_leaves_nothing),
	    T(test_stock_tar_reads_what_is_written),
	};
	return cmocka_run_group_tests(tests, room_namespace, NULL);
}
