/* Who may do what. */
#include "server/verbs/may.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

static const struct scope everything;
static const struct str demo = {"demo", 4};

/* Written down apart from the table, so that a slip there is seen here. */
static void
roles_and_verbs(void **state)
{
	static const struct {
		enum verb_id verb;
		bool developer, orchestrator;
	} matrix[] = {
	    {VERB_new, false, true},
	    {VERB_ls, true, true},
	    {VERB_show, true, true},
	    {VERB_pause, false, true},
	    {VERB_resume, false, true},
	    {VERB_snapshots, true, true},
	    {VERB_restore, false, true},
	    {VERB_rm, false, false},
	    {VERB_calls, true, true},
	    {VERB_call_show, true, true},
	    {VERB_call_output, true, true},
	    {VERB_version, true, true},
	    {VERB_help, true, true},
	    {VERB_exec, true, true},
	    {VERB_image_import, false, false},
	    {VERB_image_ls, true, true},
	    {VERB_image_rm, false, false},
	    {VERB_set, false, true},
	    {VERB_audit, false, false},
	    {VERB_why, true, true},
	    {VERB_call_wait, true, true},
	    {VERB_call_kill, true, true},
	    {VERB_call_input, true, true},
	    {VERB_files, true, true},
	    {VERB_cat, true, true},
	    {VERB_diff, true, true},
	    {VERB_find, true, true},
	    {VERB_export, true, true},
	    {VERB_import, false, true},
	    {VERB_undo, false, true},
	    {VERB_redo, false, true},
	    {VERB_rename, false, true},
	    {VERB_label, false, true},
	    {VERB_undelete, false, false},
	    {VERB_fork, false, true},
	    {VERB_bisect, false, true},
	    {VERB_view, true, true},
	    {VERB_gc, false, false},
	    {VERB_verify, true, true},
	    {VERB_usage, true, true},
	    {VERB_snapshot, false, true},
	};

	(void)state;
	assert_int_equal(sizeof matrix / sizeof *matrix, VERBS);
	for (size_t i = 0; i < VERBS; i++) {
		const struct verb *v = &verbs[matrix[i].verb];
		assert_int_equal(may(PRINCIPAL_DEVELOPER, &everything, v, demo), matrix[i].developer);
		assert_int_equal(may(PRINCIPAL_ORCHESTRATOR, &everything, v, demo),
				 matrix[i].orchestrator);
		assert_true(may(PRINCIPAL_OPERATOR, &everything, v, demo));
		assert_false(may(PRINCIPAL_NOBODY, &everything, v, demo));
		assert_false(may((enum principal_role)99, &everything, v, demo));
	}
}

static void
scopes_bind_every_role(void **state)
{
	struct scope s;
	struct err err;

	(void)state;
	assert_int_equal(scope_parse(STR_LIT("ci-*,demo"), &s, &err), 0);
	for (int role = PRINCIPAL_DEVELOPER; role <= PRINCIPAL_OPERATOR; role++) {
		assert_true(may((enum principal_role)role, &s, &verbs[VERB_show], STR_LIT("ci-7")));
		assert_true(may((enum principal_role)role, &s, &verbs[VERB_show], demo));
		assert_false(may((enum principal_role)role, &s, &verbs[VERB_show], STR_LIT("demo2")));
		assert_false(may((enum principal_role)role, &s, &verbs[VERB_show], STR_LIT("ci")));
		assert_false(may((enum principal_role)role, &s, &verbs[VERB_call_show], STR_LIT("x")));
	}
}

static void
a_verb_on_a_session_needs_one(void **state)
{
	const struct str none = {"", 0};

	(void)state;
	assert_true(may(PRINCIPAL_OPERATOR, &everything, &verbs[VERB_ls], none));
	assert_true(may(PRINCIPAL_OPERATOR, &everything, &verbs[VERB_help], none));
	assert_false(may(PRINCIPAL_OPERATOR, &everything, &verbs[VERB_show], none));
	assert_false(may(PRINCIPAL_OPERATOR, &everything, &verbs[VERB_call_show], none));
	assert_false(may(PRINCIPAL_OPERATOR, &everything, &verbs[VERB_exec], none));
}

static void
bad_scopes_are_refused(void **state)
{
	struct scope s = {"kept"};
	struct err err;
	char longest[SCOPE_MAX_BYTES + 1];

	(void)state;
	assert_int_equal(scope_parse(STR_LIT("a,,b"), &s, &err), -1);
	assert_int_equal(scope_parse(STR_LIT(",a"), &s, &err), -1);
	assert_int_equal(scope_parse(STR_LIT("a,"), &s, &err), -1);
	assert_int_equal(scope_parse(STR_LIT("a\0b"), &s, &err), -1);
	memset(longest, 'x', sizeof longest);
	assert_int_equal(scope_parse((struct str){longest, SCOPE_MAX_BYTES}, &s, &err), -1);
	assert_string_equal(s.globs, "kept"); /* untouched on failure */
	assert_int_equal(scope_parse(STR_LIT(""), &s, &err), 0);
	assert_true(scope_has(&s, demo));
}

static void
roles_have_names(void **state)
{
	(void)state;
	for (int role = PRINCIPAL_DEVELOPER; role <= PRINCIPAL_OPERATOR; role++)
		assert_int_equal(principal_role_parse(str_of(principal_role_name((enum principal_role)role))),
				 role);
	assert_int_equal(principal_role_parse(STR_LIT("nobody")), PRINCIPAL_NOBODY);
	assert_int_equal(principal_role_parse(STR_LIT("Operator")), PRINCIPAL_NOBODY);
	assert_int_equal(principal_role_parse(STR_LIT("")), PRINCIPAL_NOBODY);
}

static void
a_list_has_roles_alone(void **state)
{
	const unsigned two = 1u << PRINCIPAL_DEVELOPER | 1u << PRINCIPAL_OPERATOR;
	struct err err;
	unsigned roles = 7;

	(void)state;
	assert_int_equal(principal_roles_parse(STR_LIT("operator,nobody"), ',', &roles, &err), -1);
	assert_string_equal(err.why, "no such role: nobody");
	assert_int_equal(principal_roles_parse(STR_LIT("operator,"), ',', &roles, &err), -1);
	assert_int_equal(principal_roles_parse(STR_LIT(""), ',', &roles, &err), -1);
	assert_int_equal(roles, 7); /* untouched on failure */
	assert_int_equal(principal_roles_parse(STR_LIT(" developer, operator "), ',', &roles, &err), 0);
	assert_int_equal(roles, two);
	assert_int_equal(principal_roles_parse(STR_LIT("operator+developer+operator"), '+', &roles, &err), 0);
	assert_int_equal(roles, two);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(roles_and_verbs),
	    cmocka_unit_test(scopes_bind_every_role),
	    cmocka_unit_test(a_verb_on_a_session_needs_one),
	    cmocka_unit_test(bad_scopes_are_refused),
	    cmocka_unit_test(roles_have_names),
	    cmocka_unit_test(a_list_has_roles_alone),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
