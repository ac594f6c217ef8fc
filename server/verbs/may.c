/* Who may do what: the one function that decides, and the scope it looks at. */
#include "verbs.h"

int
scope_parse(struct str globs, struct scope *out, struct err *err)
{
	struct scope scope;
	struct str rest = globs, glob;

	if (str_copy(globs, scope.globs, sizeof scope.globs, err) < 0)
		return err_add(err, "sessions");
	while (globs.len && str_cut(&rest, ',', &glob))
		if (glob.len == 0) /* "a,,b": more likely a slip than a wish */
			return err_set(err, ERR_USAGE, "sessions: an empty pattern");
	*out = scope;
	return 0;
}

bool
scope_has(const struct scope *scope, struct str session)
{
	struct str rest = str_of(scope->globs), glob;

	if (rest.len == 0)
		return true;
	while (str_cut(&rest, ',', &glob))
		if (str_glob(glob, session))
			return true;
	return false;
}

static bool
needs_session(const struct verb *verb)
{
	return verb->session >= 0 || verb->parameters[0].type == PARAMETER_CALL ||
	       verb->parameters[0].type == PARAMETER_SNAPSHOT ||
	       verb->parameters[0].type == PARAMETER_SUBJECT;
}

bool
may(enum principal_role role, const struct scope *scope, const struct verb *verb,
    struct str session)
{
	if (role < verb->role || role > PRINCIPAL_OPERATOR) /* NOBODY is below every row */
		return false;
	if (session.len == 0)
		return !needs_session(verb);
	return scope_has(scope, session);
}
