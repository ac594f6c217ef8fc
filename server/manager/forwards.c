#include "forwards.h"
#include "manager/conns.h"
#include "manager/manager.h"

static int
parse(const char *option, const char *list, unsigned *out, struct err *err)
{
	if (list[0] == '\0') { /* nobody */
		*out = 0;
		return 0;
	}
	if (principal_roles_parse(str_of(list), ',', out, err) == 0)
		return 0;
	err->code = ERR_CONFIG;
	return err_add(err, "%s", option);
}

int
forwards_parse(const struct config *c, struct forward_roles *out, struct err *err)
{
	struct forward_roles roles;

	if (parse("forward_roles", c->forward_roles, &roles.ports, err) < 0 ||
	    parse("agent_roles", c->agent_roles, &roles.agent, err) < 0)
		return -1;
	*out = roles;
	return 0;
}

uint32_t
forwards_of(const struct conn *c)
{
	const struct forward_roles *roles = &c->m->forwards;
	const bool ports = roles->ports >> c->role & 1 && c->allow.flags & ALLOW_PORT_FORWARDING;
	const bool agent = roles->agent >> c->role & 1 && c->allow.flags & ALLOW_AGENT_FORWARDING;

	return (ports ? FORWARD_CONNECTS | FORWARD_LISTENS : 0u) | (agent ? FORWARD_AGENT : 0u);
}
