/* BERTH_* variables, in conn and in keepers; names of sessions, calls and snapshots. */
#include "fuzz.h"

#include "verbs/options.h"
#include "verbs/verbs.h"

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	static struct call_options o;
	struct scope scope;
	struct err err;
	const struct str s = text_of(bytes, n);

	if (options_parse(s, &o, &err) == 0)
		CLAIM(memchr(o.cwd, 0, sizeof o.cwd) && memchr(o.key, 0, sizeof o.key) &&
		      memchr(o.shell, 0, sizeof o.shell) && o.max_output <= OPTION_SIZE_MAX);
	(void)!session_ref_check(s, &err);
	(void)!snapshot_ref_check(s, &err);
	(void)!call_id_check(s, &err);
	if (scope_parse(s, &scope, &err) == 0)
		(void)scope_has(&scope, STR_LIT("demo-session"));
	return 0;
}
