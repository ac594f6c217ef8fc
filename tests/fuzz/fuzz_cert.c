/* Blobs of keys and certificates, which a client that nobody knows sends; judged here without regard to
 * who signed them, as those of a trusted authority are. */
#include "fuzz.h"

#include "manager/cert.h"
#include "manager/pubkey.h"

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	const struct str blob = text_of(bytes, n);
	const struct source from = source_parse(STR_LIT("10.1.2.3"));
	const struct cert_wanted wanted = {
	    .user = STR_LIT("demo"), .source = &from, .now_s = 1800000000};
	struct cert_granted granted;
	struct cert c = {0};
	struct err err;
	char print[PUBKEY_FINGERPRINT_BYTES];
	auto_buf raw = BUF_MAX(PUBKEY_BLOB_MAX_BYTES);

	pubkey_fingerprint(blob, print);
	(void)!pubkey_decode(blob, &raw, &err);
	if (pubkey_check(blob, &err) == 0)
		(void)!pubkey_verify(blob, STR_LIT("said"), blob, &err);
	if (cert_is(blob) && cert_split(blob, &c, &err) == 0) {
		(void)!cert_verify(&c, &err);
		(void)!cert_judge(&c, &wanted, &granted, &err);
	}
	cert_done(&c);
	return 0;
}
