/* A line of authorized_keys, and a key as a conn sends it. */
#include "fuzz.h"

#include "manager/keys.h"

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	struct key k = {0};
	struct err err;
	char fingerprint[128];

	if (keys_parse_line(text_of(bytes, n), &k, &err) == 1) {
		CLAIM(k.blob && memchr(k.principal, 0, sizeof k.principal));
		keys_fingerprint(str_of(k.blob), fingerprint);
		free(k.blob);
	}
	keys_fingerprint(text_of(bytes, n), fingerprint);
	return 0;
}
