/* The bar of a long verb: in any terminal's width, and its numbers stay. */
#include "server/conn/progress.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

/* Where a bar goes is no subject here. */
bool
channel_bytes(struct channel *ch, enum text t, struct str s)
{
	return ch && t < TEXTS && s.len;
}

bool
channel_text(struct channel *ch, enum text t, struct str s)
{
	return channel_bytes(ch, t, s);
}

static const struct msg_verb_progress half = {
    .doing = STR_LIT("what its shutdown wrote to be archived"),
    .bytes = 300 << 20,
    .of_bytes = 814 << 20,
    .entries = 2000,
    .elapsed_ns = 3 * NS_PER_S,
};

static struct str
draw(const struct msg_verb_progress *m, uint32_t columns, struct buf *out)
{
	struct channel ch = {.columns = columns};

	buf_clear(out);
	bar_line(&ch, m, out);
	struct str line = buf_view(out);
	assert_true(str_starts(line, "\r") && line.len >= 4);
	assert_memory_equal(line.at + line.len - 3, "\033[K", 3);
	return (struct str){line.at + 1, line.len - 4};
}

static void
a_bar_never_wraps(void **state)
{
	struct msg_verb_progress unknown = half;
	auto_buf out = BUF_MAX(4096);

	(void)state;
	unknown.of_bytes = 0;
	for (uint32_t columns = 1; columns < 200; columns++) {
		assert_true(draw(&half, columns, &out).len < columns);
		assert_true(draw(&unknown, columns, &out).len < columns);
	}
	assert_true(draw(&half, 0, &out).len < 80);
}

static void
at_80_columns_all_numbers_are_there(void **state)
{
	static const char *const numbers[] = {" 36%", "300 MiB of 814 MiB", "2000 files",
					      "100 MiB/s", "ETA 6s"};
	auto_buf out = BUF_MAX(4096);

	(void)state;
	for (uint32_t columns = 80; columns < 200; columns++) {
		const struct str line = draw(&half, columns, &out);
		for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
			if (!memmem(line.at, line.len, numbers[i], strlen(numbers[i])))
				fail_msg("%u columns lack %s: %.*s", columns, numbers[i],
					 (int)line.len, line.at);
	}
	const struct str wide = draw(&half, 140, &out);
	assert_non_null(memmem(wide.at, wide.len, "archived [#########---------------] 36%", 39));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_bar_never_wraps),
	    cmocka_unit_test(at_80_columns_all_numbers_are_there),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
