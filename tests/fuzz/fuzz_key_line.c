/* A line of authorized_keys, a list of revoked keys, addresses and times in them. */
#include "fuzz.h"

#include "manager/key_line.h"
#include "manager/pubkey.h"
#include "manager/revoked.h"
#include "manager/sources.h"

static void
as_line(struct str line)
{
	struct key k = {0};
	struct err err;
	uint64_t at;

	if (key_line_parse(line, &k, &err) == 1) {
		CLAIM(k.blob && memchr(k.principal, 0, sizeof k.principal));
		CLAIM(pubkey_check(key_blob(&k), &err) == 0);
		key_done(&k);
	}
	(void)!key_line_time(line, &at, &err);
}

static void
as_list(struct str text)
{
	struct revoked r = {0};
	struct err err;

	revoked_parse(text, &r);
	(void)!revoked_check_key(&r, text, &err);
	(void)!revoked_check_certificate(&r, 7, STR_LIT("id"), &err);
	revoked_done(&r);
}

static void
as_addresses(struct str text)
{
	const struct source one = source_parse(text), some = source_parse(STR_LIT("10.1.2.3"));
	const struct source party = source_party(&one);
	struct err err;

	(void)party;
	if (sources_check_patterns(text, &err) == 0)
		(void)sources_match_patterns(text, &some);
	if (sources_check(text, &err) == 0)
		(void)sources_match(text, &some);
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	as_line(text_of(bytes, n));
	as_list(text_of(bytes, n));
	as_addresses(text_of(bytes, n));
	return 0;
}
