/* Certificates that no ssh-keygen makes: their parts are put together and signed here, rightly, so
 * that what they say is what is judged. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "server/manager/cert.c"
#include "base/digest.h"

#include <openssl/evp.h>
#include <stdlib.h>

enum { NOW_S = 1000000 };

/* What a certificate says; by default one that comes in as demo. */
struct says {
	struct buf principals, critical, extensions; /* owned */
	struct str id, behind;                       /* behind: bytes after the signature */
	uint64_t serial, after_s, before_s;
	uint32_t type;
	const char *signature_name;
	struct str authority; /* as it stands in it; none: who signs */
};

static EVP_PKEY *signer;

static void
put_u32(struct buf *out, uint32_t n)
{
	const unsigned char at[] = {(unsigned char)(n >> 24), (unsigned char)(n >> 16),
				    (unsigned char)(n >> 8), (unsigned char)n};

	buf_add(out, at, sizeof at);
}

static void
put_u64(struct buf *out, uint64_t n)
{
	put_u32(out, (uint32_t)(n >> 32));
	put_u32(out, (uint32_t)n);
}

static void
put_key(struct buf *out, EVP_PKEY *key)
{
	unsigned char raw[32];
	size_t n = sizeof raw;

	assert_int_equal(EVP_PKEY_get_raw_public_key(key, raw, &n), 1);
	pubkey_put_string(out, STR_LIT("ssh-ed25519"));
	pubkey_put_string(out, (struct str){(const char *)raw, n});
}

static struct says
sound(void)
{
	struct says s = {.principals = BUF_MAX(65536),
			 .critical = BUF_MAX(65536),
			 .extensions = BUF_MAX(65536),
			 .id = STR_LIT("anna"),
			 .after_s = NOW_S - 10,
			 .before_s = NOW_S + 10,
			 .type = CERT_FOR_USERS,
			 .signature_name = "ssh-ed25519"};

	pubkey_put_string(&s.principals, STR_LIT("demo"));
	return s;
}

static void
put_option(struct buf *out, const char *name, struct str text)
{
	auto_buf value = BUF_MAX(65536);

	pubkey_put_string(&value, text);
	pubkey_put_string(out, str_of(name));
	pubkey_put_string(out, buf_view(&value));
}

static void
make(const struct says *s, struct buf *out)
{
	auto_buf key = BUF_MAX(256);
	auto_buf signature = BUF_MAX(256);
	unsigned char raw[64];
	size_t n = sizeof raw;

	put_key(&key, signer);
	const struct str key_bytes = buf_view(&key);
	pubkey_put_string(out, STR_LIT("ssh-ed25519-cert-v01@openssh.com"));
	pubkey_put_string(out, STR_LIT("nonce"));
	/* the certified key is the authority's own: nothing forbids that */
	pubkey_put_string(out, (struct str){key_bytes.at + key_bytes.len - 32, 32});
	put_u64(out, s->serial);
	put_u32(out, s->type);
	pubkey_put_string(out, s->id);
	pubkey_put_string(out, buf_view(&s->principals));
	put_u64(out, s->after_s);
	put_u64(out, s->before_s);
	pubkey_put_string(out, buf_view(&s->critical));
	pubkey_put_string(out, buf_view(&s->extensions));
	pubkey_put_string(out, STR_LIT(""));
	pubkey_put_string(out, s->authority.at ? s->authority : key_bytes);
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	assert_int_equal(EVP_DigestSignInit(ctx, NULL, NULL, NULL, signer), 1);
	assert_int_equal(EVP_DigestSign(ctx, raw, &n, (const unsigned char *)out->at, out->len), 1);
	EVP_MD_CTX_free(ctx);
	pubkey_put_string(&signature, str_of(s->signature_name));
	pubkey_put_string(&signature, (struct str){(const char *)raw, n});
	pubkey_put_string(out, buf_view(&signature));
	buf_str(out, s->behind);
	assert_false(buf_bad(out));
}

/* What it is refused for; empty: it comes in. It frees what it was given. */
static const char *
judge_for(struct says *s, const char *principals, const char *from)
{
	static struct err err;
	__attribute__((cleanup(cert_done))) struct cert c;
	auto_buf blob = BUF_MAX(262144);
	const struct source source = source_parse(str_of(from));
	const struct cert_wanted w = {
	    .principals = principals, .user = STR_LIT("demo"), .source = &source, .now_s = NOW_S};
	struct cert_granted granted;

	make(s, &blob);
	buf_free(&s->principals);
	buf_free(&s->critical);
	buf_free(&s->extensions);
	err = (struct err){0};
	if (cert_split(buf_view(&blob), &c, &err) == 0 && cert_verify(&c, &err) == 0 &&
	    cert_judge(&c, &w, &granted, &err) == 0)
		return "";
	return err.why;
}

static const char *
judge(struct says *s)
{
	return judge_for(s, NULL, "10.1.2.3");
}

#define REFUSED(said, words)                                                                       \
	do {                                                                                       \
		const char *why = (said);                                                          \
		if (!strstr(why, words) || !*why)                                                  \
			fail_msg("said: %s, not: %s", why, words);                                 \
	} while (0)

static void
a_sound_one_comes_in(void **state)
{
	struct says s = sound();

	(void)state;
	assert_string_equal(judge(&s), "");
}

static void
what_stands_behind_or_within_is_refused(void **state)
{
	struct says s = sound();
	auto_buf blob = BUF_MAX(65536);

	(void)state;
	s.behind = STR_LIT("x");
	REFUSED(judge(&s), "not whole");
	s = sound();
	make(&s, &blob); /* a certificate as authority */
	s.authority = buf_view(&blob);
	REFUSED(judge(&s), "a kind that is not taken");
	s = sound();
	s.signature_name = "ssh-rsa";
	REFUSED(judge(&s), "signed by ssh-rsa");
	s = sound();
	s.signature_name = "rsa-sha2-512";
	REFUSED(judge(&s), "signed by rsa-sha2-512");
	s = sound();
	s.type = 2;
	REFUSED(judge(&s), "not a user certificate");
}

static void
its_time_is_from_after_to_before(void **state)
{
	static const struct {
		uint64_t after_s, before_s;
		const char *why;
	} times[] = {
	    {0, UINT64_MAX, ""},
	    {NOW_S, NOW_S + 1, ""},
	    {NOW_S + 1, UINT64_MAX, "not valid yet"},
	    {0, NOW_S, "expired"},
	    {0, 0, "expired"},
	    {NOW_S + 10, NOW_S - 10, "not valid yet"},
	    {NOW_S, NOW_S - 1, "expired"},
	    {UINT64_MAX, UINT64_MAX, "not valid yet"},
	    {0, (uint64_t)INT64_MAX + 1, ""},
	};

	(void)state;
	for (size_t i = 0; i < sizeof times / sizeof *times; i++) {
		struct says s = sound();
		s.after_s = times[i].after_s;
		s.before_s = times[i].before_s;
		const char *why = judge(&s);
		if (times[i].why[0] ? !strstr(why, times[i].why) : *why)
			fail_msg("%zu: %s", i, why);
	}
}

static const char *
named(struct str principal, const char *principals)
{
	struct says s = sound();

	buf_clear(&s.principals);
	pubkey_put_string(&s.principals, principal);
	return judge_for(&s, principals, "10.1.2.3");
}

static void
a_principal_is_whole_or_none(void **state)
{
	struct says s = sound();

	(void)state;
	REFUSED(named(STR_LIT(""), NULL), "does not name");
	REFUSED(named(STR_LIT(""), ","), "names none");
	REFUSED(named(STR_LIT("demo,other"), NULL), "does not name");
	REFUSED(named(STR_LIT("a,b"), "a,b"), "names none");
	REFUSED(named(STR_LIT("a,"), "a,"), "names none");
	REFUSED(named(STR_LIT("*"), NULL), "does not name");
	REFUSED(named(STR_LIT("Demo"), NULL), "does not name");
	REFUSED(named(STR_LIT(" demo"), NULL), "does not name");
	REFUSED(named(STR_LIT("demo\0x"), NULL), "principals");
	assert_string_equal(named(STR_LIT("b"), "a, b"), "");
	buf_add(&s.principals, "\0\0\0\xff", 4); /* one that is longer than the list */
	REFUSED(judge(&s), "principals");
	s = sound();
	pubkey_put_string(&s.principals, STR_LIT("demo"));
	assert_string_equal(judge(&s), "");
	s = sound();
	for (int i = 0; i < CERT_PRINCIPALS_MAX; i++)
		pubkey_put_string(&s.principals, STR_LIT("x"));
	REFUSED(judge(&s), "principals");
}

static void
an_id_with_a_nul_is_none(void **state)
{
	struct says s = sound();

	(void)state;
	s.id = STR_LIT("anna\0bert");
	REFUSED(judge(&s), "key id");
}

static void
options_are_held_to_or_refused(void **state)
{
	struct says s = sound();

	(void)state;
	put_option(&s.critical, "source-address", STR_LIT("10.0.0.0/8"));
	assert_string_equal(judge_for(&s, NULL, "::ffff:10.1.2.3"), "");
	s = sound();
	put_option(&s.critical, "source-address", STR_LIT("10.0.0.0/8"));
	REFUSED(judge_for(&s, NULL, "11.1.2.3"), "not for logins from");
	s = sound();
	put_option(&s.critical, "source-address", STR_LIT("10.0.0.0/8"));
	REFUSED(judge_for(&s, NULL, ""), "not for logins from an unknown address");
	static const char *const bad[] = {"",           "10.0.0.0/8,",     "*", "!10.0.0.0/8",
					  "10.0.0.1/8", "::ffff:0.0.0.0/0"};
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		s = sound();
		put_option(&s.critical, "source-address", str_of(bad[i]));
		REFUSED(judge(&s), "source-address");
	}
	s = sound(); /* twice; and behind one that is right, in any order */
	put_option(&s.critical, "source-address", STR_LIT("10.0.0.0/8"));
	put_option(&s.critical, "source-address", STR_LIT("0.0.0.0/0"));
	REFUSED(judge(&s), "source-address");
	s = sound();
	put_option(&s.critical, "source-address", STR_LIT("10.0.0.0/8"));
	put_option(&s.critical, "force-command", STR_LIT("true"));
	REFUSED(judge(&s), "force-command is not supported");
	s = sound();
	put_option(&s.critical, "source-address\0x", STR_LIT("10.0.0.0/8"));
	buf_add(&s.critical, "\0", 1);
	REFUSED(judge(&s), "the certificate's options");
}

static void
an_extension_with_more_than_its_name_is_refused(void **state)
{
	struct says s = sound();

	(void)state;
	put_option(&s.extensions, "permit-pty", STR_LIT("sometimes"));
	REFUSED(judge(&s), "permit-pty");
	s = sound();
	put_option(&s.extensions, "login@example.com", STR_LIT("anna"));
	assert_string_equal(judge(&s), "");
}

static int
make_signer(void **state)
{
	(void)state;
	signer = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
	return signer ? 0 : -1;
}

static int
free_signer(void **state)
{
	(void)state;
	EVP_PKEY_free(signer);
	return 0;
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_sound_one_comes_in),
	    cmocka_unit_test(what_stands_behind_or_within_is_refused),
	    cmocka_unit_test(its_time_is_from_after_to_before),
	    cmocka_unit_test(a_principal_is_whole_or_none),
	    cmocka_unit_test(an_id_with_a_nul_is_none),
	    cmocka_unit_test(options_are_held_to_or_refused),
	    cmocka_unit_test(an_extension_with_more_than_its_name_is_refused),
	};
	return cmocka_run_group_tests(tests, make_signer, free_signer);
}
