/* What sessions, snapshots and calls are called, and the table of verbs itself. */
#include "verbs.h"

#include "base/num.h"

/* What a row's parameters are made of; see verbs.def. */
#define NEED_REQUIRED		     true
#define NEED_OPTIONAL		     false
#define SESSION_NO_SESSION	     (-1)
#define SESSION_0		     0
#define NOTHING
#define ARG(name_, type_, need, help_)                                                             \
	{#name_, PARAMETER_##type_, true, NEED_##need, "", help_, false},
#define ARGS(name_, type_, need, help_)                                                            \
	{#name_, PARAMETER_##type_, true, NEED_##need, "", help_, true},
#define OPT(name_, type_, value_, help_)                                                           \
	{#name_, PARAMETER_##type_, false, false, value_, help_, false},
#define OPTS(name_, type_, value_, help_)                                                          \
	{#name_, PARAMETER_##type_, false, false, value_, help_, true},
#define WORDS(name_, help_) {#name_, PARAMETER_WORDS, true, true, "", help_, true},
#define VERB(id, name, role, where, session, help, parameters)                                     \
	[VERB_##id] = {VERB_##id, name, PRINCIPAL_##role, VERB_AT_##where, SESSION_##session,      \
		       help, {parameters {NULL, PARAMETER_NONE, false, false, "", "", false}}},

const struct verb verbs[VERBS] = {
#include "verbs.def"
};

const struct verb *
verb_find(struct str name)
{
	for (size_t i = 0; i < VERBS; i++)
		if (str_is(name, verbs[i].name))
			return &verbs[i];
	return NULL;
}

size_t
verb_parameters(const struct verb *v)
{
	size_t n = 0;
	while (v->parameters[n].type != PARAMETER_NONE)
		n++;
	return n;
}

static const char *const roles[] = {
    [PRINCIPAL_NOBODY] = "nobody",
    [PRINCIPAL_DEVELOPER] = "developer",
    [PRINCIPAL_ORCHESTRATOR] = "orchestrator",
    [PRINCIPAL_OPERATOR] = "operator",
};

enum principal_role
principal_role_parse(struct str text)
{
	for (int i = PRINCIPAL_DEVELOPER; i <= PRINCIPAL_OPERATOR; i++)
		if (str_is(text, roles[i]))
			return (enum principal_role)i;
	return PRINCIPAL_NOBODY;
}

const char *
principal_role_name(enum principal_role role)
{
	return (unsigned)role <= PRINCIPAL_OPERATOR ? roles[role] : roles[PRINCIPAL_NOBODY];
}

int
principal_roles_parse(struct str list, char between, unsigned *out, struct err *err)
{
	unsigned among = 0;
	struct str one;

	while (str_cut(&list, between, &one)) {
		one = str_trim(one);
		const enum principal_role role = principal_role_parse(one);
		if (role == PRINCIPAL_NOBODY)
			return err_set(err, ERR_USAGE, "no such role: %.*s", (int)one.len, one.at);
		among |= 1u << role;
	}
	*out = among;
	return 0;
}

static bool
is_name_start(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

static bool
has_name_form(struct str s)
{
	if (s.len == 0 || s.len > SESSION_NAME_MAX_BYTES || !is_name_start(s.at[0]))
		return false;
	for (size_t i = 1; i < s.len; i++)
		if (!is_name_start(s.at[i]) && s.at[i] != '.' && s.at[i] != '_' && s.at[i] != '-')
			return false;
	return true;
}

static bool
is_hex(struct str s)
{
	for (size_t i = 0; i < s.len; i++)
		if (!(s.at[i] >= '0' && s.at[i] <= '9') && !(s.at[i] >= 'a' && s.at[i] <= 'f'))
			return false;
	return true;
}

int
session_name_check(struct str name, struct err *err)
{
	if (!has_name_form(name)) {
		err_set(err, ERR_USAGE, "not a session's name");
		return err_hint(err, "begin with a-z or 0-9, go on with a-z 0-9 . _ -, at most %d",
				SESSION_NAME_MAX_BYTES);
	}
	if (str_is(name, "berth")) {
		err_set(err, ERR_USAGE, "this name is reserved");
		return err_hint(err, "choose another one");
	}
	if (id_is("s_", name)) {
		err_set(err, ERR_USAGE, "a name may not have the form of an id");
		return err_hint(err, "choose another one");
	}
	return 0;
}

int
session_ref_check(struct str ref, struct err *err)
{
	if (id_is("s_", ref))
		return 0;
	return session_name_check(ref, err);
}

int
snapshot_name_check(struct str name, struct err *err)
{
	if (!has_name_form(name)) {
		err_set(err, ERR_USAGE, "not a snapshot's name");
		return err_hint(err, "begin with a-z or 0-9, go on with a-z 0-9 . _ -, at most %d",
				SESSION_NAME_MAX_BYTES);
	}
	if (is_hex(name)) {
		err_set(err, ERR_USAGE, "a name may not look like the beginning of a digest");
		return err_hint(err, "take a letter beyond f, or one of . _ -");
	}
	return 0;
}

int
snapshot_ref_check(struct str ref, struct err *err)
{
	static const struct str front = STR_LIT("sha256:");
	const char *plus = memchr(ref.at, '+', ref.len);
	if (plus) {
		const struct str session = {ref.at, (size_t)(plus - ref.at)};
		if (session_ref_check(session, err) < 0)
			return -1;
		ref = (struct str){plus + 1, ref.len - session.len - 1};
	}
	const struct str digits = {ref.at + front.len, ref.len - front.len};

	if (str_starts(ref, front.at) && digits.len == 64 && is_hex(digits))
		return 0;
	if (ref.len == 64 && is_hex(ref)) /* one more than a name may have */
		return 0;
	if (!has_name_form(ref)) {
		err_set(err, ERR_USAGE, "not a snapshot");
		return err_hint(err, "run: ssh berth@HOST snapshots SESSION");
	}
	if (is_hex(ref) && ref.len < 6) {
		err_set(err, ERR_USAGE, "too few digits of a digest");
		return err_hint(err, "give at least 6");
	}
	return 0;
}

int
call_id_check(struct str id, struct err *err)
{
	if (id_is("c_", id))
		return 0;
	err_set(err, ERR_USAGE, "not a call's id");
	return err_hint(err, "run: ssh berth@HOST calls SESSION");
}
