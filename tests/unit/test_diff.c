/* diff.c: of any two points of a random history, exactly what differs; of neighbours, from little.
 */
#include "snapshot/diff.c"

#include "view_room.h"

static unsigned long seed;

static unsigned
dice(unsigned n)
{
	seed = seed * 6364136223846793005ul + 1442695040888963407ul;
	return (unsigned)(seed >> 33) % n;
}

static void
pick(char out[64])
{
	static const char *const names[] = {"a", "a-b", "a!", "b", "a0"};
	size_t n = 0;

	for (unsigned depth = 1 + dice(3); depth; depth--)
		n += (size_t)snprintf(out + n, 64 - n, "%s%s", n ? "/" : "", names[dice(5)]);
}

static void
remove_all(const char *name)
{
	char command[256];
	snprintf(command, sizeof command, "rm -rf '%s/upper/%s'", room.path, name);
	shell(command);
}

static void
change(int dir)
{
	char a[64], b[64], text[64];

	pick(a);
	pick(b);
	snprintf(text, sizeof text, "%u", dice(3));
	const unsigned what = dice(9);
	if (what < 4) {
		const int fd = openat(dir, a, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
		if (fd >= 0) {
			assert_int_equal(write(fd, text, strlen(text)), strlen(text));
			close(fd);
		}
	} else if (what < 5) {
		(void)!mkdirat(dir, a, 0700 + dice(64));
	} else if (what < 6) {
		remove_all(a);
	} else if (what < 7) {
		remove_all(a);
		(void)!(dice(2) ? mkdirat(dir, a, 0755) : symlinkat(text, dir, a));
	} else if (what < 8) {
		(void)!fchmodat(dir, a, 0700 + dice(2), 0);
	} else {
		(void)!linkat(dir, a, dir, b, 0);
	}
}

/* What a view shows, path by path, in the order of paths. */
struct shown {
	char path[128];
	struct diff_side side;
	char content[64];
};

static size_t
show(struct view *v, struct shown *out)
{
	struct view_entry e, file;
	struct err err;
	size_t n = 0, k = 0;

	auto_of(view_walk) struct view_walk *w = view_walk_new(v, STR_LIT(""), true, &err);
	while (view_walk_next(w, &e, &err) > 0) {
		struct shown *s = &out[n++];
		memset(s, 0, sizeof *s);
		memcpy(s->path, e.row.path.at, e.row.path.len);
		must(describe(v, &e, &s->side, &err), &err);
		must(view_resolve(v, &e, &file, &err), &err);
		if (s->side.type == ENTRY_SYMLINK)
			memcpy(s->content, file.row.link.at, file.row.link.len);
		if (s->side.type != ENTRY_FILE)
			continue;
		auto_of(content) struct content *c = content_open(v, &e, &err);
		must(content_read(c, 0, s->content, sizeof s->content, &k, &err), &err);
	}
	return n;
}

struct said {
	char path[128];
	enum diff_what what;
};

static struct said said[4096];
static size_t n_said;

static int
note(void *ctx, const struct diff_change *c, struct err *err)
{
	(void)ctx;
	(void)err;
	assert_true(n_said < 4096);
	memset(&said[n_said], 0, sizeof *said);
	memcpy(said[n_said].path, c->path.at, c->path.len);
	said[n_said++].what = c->what;
	assert_int_equal(c->a.there, c->what != DIFF_ADDED);
	assert_int_equal(c->b.there, c->what != DIFF_DELETED);
	return 0;
}

static void
expect(const char *path, enum diff_what what)
{
	size_t found = 0;

	for (size_t i = 0; i < n_said; i++)
		if (strcmp(said[i].path, path) == 0) {
			found++;
			assert_int_equal(said[i].what, what);
		}
	if (found != 1)
		fail_msg("%s is told of %zu times, not as %d", path, found, what);
}

static void
judge_diff(struct view *va, struct view *vb)
{
	static struct shown a[1024], b[1024];
	const size_t n_a = show(va, a), n_b = show(vb, b);
	size_t i = 0, j = 0, expected = 0;
	struct err err;

	n_said = 0;
	must(diff_views(va, vb, note, NULL, &err), &err);
	while (i < n_a || j < n_b) {
		const int o = i == n_a ? 1 : j == n_b ? -1 : strcmp(a[i].path, b[j].path);
		const struct shown *x = &a[i], *y = &b[j];
		if (o < 0) {
			expect(x->path, DIFF_DELETED);
			expected++;
		} else if (o > 0) {
			expect(y->path, DIFF_ADDED);
			expected++;
		} else if (x->side.type != y->side.type) {
			expect(x->path, DIFF_TYPE);
			expected++;
		} else if (memcmp(x->content, y->content, sizeof x->content) != 0) {
			expect(x->path, DIFF_CONTENT);
			expected++;
		} else if (x->side.mode != y->side.mode) {
			expect(x->path, DIFF_ATTRIBUTES);
			expected++;
		}
		i += o <= 0;
		j += o >= 0;
	}
	if (expected != n_said)
		for (size_t k = 0; k < n_said; k++)
			print_message("%d %s\n", said[k].what, said[k].path);
	assert_int_equal(n_said, expected);
}

static void
test_exactly_what_differs_is_said(void **state)
{
	const char *given = getenv("BERTH_TEST_SEED");

	(void)state;
	seed = given ? strtoul(given, NULL, 10) : (unsigned long)getpid() * 2654435761u + 11;
	print_message("BERTH_TEST_SEED=%lu\n", seed);
	for (int history = 0; history < 8; history++) {
		layers_begin();
		for (int i = 0; i < 5; i++) {
			for (int n = 0; n < 14; n++)
				change(room.upper);
			layers_add();
		}
		for (size_t i = 0; i <= layers.n; i++)
			for (size_t j = 0; j <= layers.n; j++) {
				auto_of(view) struct view *a = view_of(i), *b = view_of(j);
				judge_diff(a, b);
			}
		layers_end();
		remove_all("a*");
		shell("true");
	}
}

static void
test_neighbours_cost_what_lies_between(void **state)
{
	auto_free char *noise = malloc(32 << 20);
	struct err err;

	(void)state;
	assert_non_null(noise);
	auto_close int random = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
	must(fd_pread_all(random, noise, 32 << 20, 0, &err), &err);
	put_file(room.upper, "large", noise, 32 << 20);
	put_text(room.upper, "note", "one");
	layers_begin();
	layers_add();
	put_text(room.upper, "note", "two");
	layers_add();
	auto_of(view) struct view *a = view_of(1), *b = view_of(2);
	n_said = 0;
	must(diff_views(a, b, note, NULL, &err), &err);
	assert_int_equal(n_said, 1);
	expect("note", DIFF_CONTENT);
	assert_true(view_read_bytes(a) + view_read_bytes(b) < 3 << 20);
	layers_end();
}

static void
test_the_live_workspace_is_compared_too(void **state)
{
	struct err err;

	(void)state;
	put_text(room.upper, "kept", "same");
	put_text(room.upper, "touched", "same");
	put_text(room.upper, "changed", "once");
	put_text(room.upper, "gone", "x");
	layers_begin();
	layers_add();
	const int live = room_dir("live");
	put_text(live, "touched", "same"); /* copied up, its time alone is new */
	put_text(live, "changed", "then");
	put_text(live, "new", "x");
	ok(mknodat(live, "gone", S_IFCHR, makedev(0, 0)));
	auto_of(view) struct view *a = view_of(1), *b = view_of(1);
	must(view_add_live(b, live, &err), &err);
	n_said = 0;
	must(diff_views(a, b, note, NULL, &err), &err);
	assert_int_equal(n_said, 3);
	expect("changed", DIFF_CONTENT);
	expect("new", DIFF_ADDED);
	expect("gone", DIFF_DELETED);
	close(live);
	layers_end();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_exactly_what_differs_is_said, room_open,
					    room_close),
	    cmocka_unit_test_setup_teardown(test_neighbours_cost_what_lies_between, room_open,
					    room_close),
	    cmocka_unit_test_setup_teardown(test_the_live_workspace_is_compared_too, room_open,
					    room_close),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
