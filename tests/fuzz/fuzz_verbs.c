/* The user `berth`: a command of a client in conn, and what a conn sends the manager. What conn
 * lets through, the manager takes. */
#include "fuzz.h"

#include "verbs/verbs.h"

static void
as_words(struct str command)
{
	auto_words words = {0};
	struct request r = {0}, again = {0};
	struct err err;
	auto_buf args = BUF_MAX(VERB_ARGS_MAX_BYTES), help = BUF_MAX(65536);

	if (parse_words(command, &words, &err) < 0 || parse_request(&words, &r, &err) < 0)
		return;
	if (!r.verb || r.help || r.verb->where == VERB_AT_CONN) {
		(void)!help_answer(&r, &help, &err);
		return;
	}
	if (request_encode(&r, &args, &err) == 0)
		CLAIM(request_decode(str_of(r.verb->name), buf_view(&args), r.json, &again, &err) ==
		      0);
}

static void
as_args(struct str verb, struct str args)
{
	struct request r = {0};
	struct err err;
	auto_buf out = BUF_MAX(4096);

	if (request_decode(verb, args, false, &r, &err) < 0)
		json_put_error(&out, &err);
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	struct str rest = text_of(bytes, n), verb;

	as_words(rest);
	if (n && str_cut(&rest, '\0', &verb))
		as_args(verb, rest);
	return 0;
}
