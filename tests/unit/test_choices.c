/* What may be chosen for a session, by whom, and what it comes to. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "config.h"
#include "server/manager/choices.c"
#include "server/wire/wire.h"

#include <fcntl.h>

static struct manager m = {.state = -1, .run = -1};
static struct words words;

static int
setup(void **state)
{
	struct err err;

	(void)state;
	config_default(&m.config);
	m.state = open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC);
	m.run = open("/proc/self/task", O_PATH | O_DIRECTORY | O_CLOEXEC);
	return mounts_allowed_parse(STR_LIT("/usr/bin, /usr/lib:ro"), &m.mounts, &err);
}

/* 0, or the code of its failure. */
static int
chooses(enum principal_role role, const char *command, struct choices *out)
{
	const struct conn c = {.role = role};
	struct request r;
	struct err err;

	words_free(&words);
	assert_int_equal(parse_words(str_of(command), &words, &err), 0);
	assert_int_equal(parse_request(&words, &r, &err), 0);
	const int result = choices_of_request(&m, &c, &r, true, out, &err);
	return result == 0 ? 0 : (int)err.code;
}

static void
what_is_not_chosen_is_as_the_node(void **state)
{
	auto_choices c = {.n_mounts = 0};

	(void)state;
	assert_int_equal(chooses(PRINCIPAL_ORCHESTRATOR, "new x", &c), 0);
	assert_false(choices_any(&c));
	assert_int_equal(choices_walls(&m.config, &c), 0);
	m.config.setuid = m.config.tmp_in_memory = true;
	assert_int_equal(choices_walls(&m.config, &c), KEEPER_WALL_SETUID | KEEPER_TMP_IN_MEMORY);
	m.config.setuid = m.config.tmp_in_memory = false;
}

static void
lower_walls_are_for_operators_and_higher_ones_for_all(void **state)
{
	auto_choices c = {.n_mounts = 0};

	(void)state;
	assert_int_equal(chooses(PRINCIPAL_OPERATOR, "new x --setuid yes --nested yes", &c), 0);
	assert_int_equal(choices_walls(&m.config, &c), KEEPER_WALL_SETUID | KEEPER_WALL_NESTED);
	assert_int_equal(chooses(PRINCIPAL_ORCHESTRATOR, "new x --setuid yes", &c), ERR_DENIED);
	assert_int_equal(chooses(PRINCIPAL_ORCHESTRATOR, "new x --nested yes", &c), ERR_DENIED);
	assert_int_equal(chooses(PRINCIPAL_ORCHESTRATOR, "new x --tmp-in-memory yes", &c), 0);
	assert_int_equal(choices_walls(&m.config, &c), KEEPER_TMP_IN_MEMORY);
	m.config.setuid = m.config.nested = true;
	assert_int_equal(chooses(PRINCIPAL_ORCHESTRATOR, "new x --setuid no --nested yes", &c), 0);
	assert_int_equal(choices_walls(&m.config, &c), KEEPER_WALL_NESTED);
	assert_true(choices_any(&c));
	m.config.setuid = m.config.nested = false;
	assert_int_equal(choices_walls(&m.config, &c), KEEPER_WALL_NESTED); /* what was said stays */
}

static void
mounts_are_for_operators_and_stay_in_order(void **state)
{
	auto_choices c = {.n_mounts = 0};

	(void)state;
	assert_int_equal(chooses(PRINCIPAL_ORCHESTRATOR, "new x --mount /usr/bin:/b", &c), ERR_DENIED);
	assert_int_equal(chooses(PRINCIPAL_OPERATOR, "new x --mount /usr/lib:/l --mount /usr/bin:/b", &c), 0);
	assert_int_equal(c.n_mounts, 2);
	assert_string_equal(c.mounts[0].source, "/usr/lib");
	assert_true(c.mounts[0].read_only && !c.mounts[1].read_only);
	choices_done(&c);
	assert_int_equal(chooses(PRINCIPAL_OPERATOR, "new x --mount /usr/sbin:/b", &c), ERR_DENIED);
	assert_int_equal(chooses(PRINCIPAL_OPERATOR, "new x --mount /usr/bin:/b --mount /usr/bin:/b/c", &c), ERR_USAGE);
	assert_int_equal(chooses(PRINCIPAL_OPERATOR, "new x --mount /usr/bin:/usr/b", &c), ERR_USAGE);
	assert_int_equal(c.n_mounts, 0);
	assert_int_equal(chooses(PRINCIPAL_OPERATOR,
				 "new x --mount /usr/bin:/1 --mount /usr/bin:/2 --mount /usr/bin:/3 --mount /usr/bin:/4 "
				 "--mount /usr/bin:/5 --mount /usr/bin:/6 --mount /usr/bin:/7 --mount /usr/bin:/8",
				 &c), 0);
	assert_int_equal(c.n_mounts, MOUNTS_MAX);
	choices_done(&c);
	assert_int_equal(chooses(PRINCIPAL_OPERATOR,
				 "new x --mount /usr/bin:/1 --mount /usr/bin:/2 --mount /usr/bin:/3 --mount /usr/bin:/4 "
				 "--mount /usr/bin:/5 --mount /usr/bin:/6 --mount /usr/bin:/7 --mount /usr/bin:/8 --mount /usr/bin:/9",
				 &c), ERR_USAGE);
	words_free(&words);
}

static void
a_copy_is_its_own_and_a_plain_one_lacks_what_operators_give(void **state)
{
	struct choices c = {0}, copy = {0};
	auto_buf given = BUF_MAX(4096);

	(void)state;
	assert_int_equal(chooses(PRINCIPAL_OPERATOR,
				 "new x --mount /usr/bin:/b --setuid yes --nested no --tmp-in-memory yes --fork-ready yes",
				 &c), 0);
	choices_copy(&c, &copy);
	choices_done(&c);
	assert_int_equal(copy.n_mounts, 1);
	assert_string_equal(copy.mounts[0].target, "/b");
	choices_plain(&m.config, &copy, &given);
	assert_string_equal(buf_cstr(&given), "setuid, mount /b");
	assert_true(!copy.wall_set[WALL_SETUID] && copy.n_mounts == 0);
	assert_true(copy.wall_set[WALL_NESTED] && !copy.wall[WALL_NESTED]); /* a wall that was raised stays */
	assert_true(copy.wall[WALL_TMP_IN_MEMORY] && choices_fork_ready(&m.config, &copy));
	buf_clear(&given);
	choices_plain(&m.config, &copy, &given);
	assert_int_equal(given.len, 0);
	choices_done(&copy);
	assert_false(choices_fork_ready(&m.config, &copy));
	words_free(&words);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(what_is_not_chosen_is_as_the_node),
	    cmocka_unit_test(lower_walls_are_for_operators_and_higher_ones_for_all),
	    cmocka_unit_test(mounts_are_for_operators_and_stay_in_order),
	    cmocka_unit_test(a_copy_is_its_own_and_a_plain_one_lacks_what_operators_give),
	};
	return cmocka_run_group_tests(tests, setup, NULL);
}
