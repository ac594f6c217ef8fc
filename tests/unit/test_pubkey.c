/* Signatures and keys that are almost right. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#undef skip /* a word of cmocka's too */
#include "server/manager/pubkey.c"

static const struct {
	const char *name, *curve, *group;
	size_t point_bytes;
} curves[] = {{"ecdsa-sha2-nistp256", "nistp256", "P-256", 65},
	      {"ecdsa-sha2-nistp384", "nistp384", "P-384", 97},
	      {"ecdsa-sha2-nistp521", "nistp521", "P-521", 133}};

#define SIGNED STR_LIT("what was signed")

static EVP_PKEY *pkey;
static unsigned char point[256];
static size_t curve;

static void
put_key(struct buf *out, const char *name, const char *its_curve, struct str its_point)
{
	buf_clear(out);
	pubkey_put_string(out, str_of(name));
	pubkey_put_string(out, str_of(its_curve));
	pubkey_put_string(out, its_point);
}

static void
put_signature(struct buf *out, const char *name, struct str r, struct str s, const char *behind)
{
	auto_buf value = BUF_MAX(1024);

	buf_clear(out);
	pubkey_put_string(&value, r);
	pubkey_put_string(&value, s);
	buf_text(&value, behind);
	pubkey_put_string(out, str_of(name));
	pubkey_put_string(out, buf_view(&value));
}

/* As an mpint of SSH, with so many zeros in front; negative: without the zero that it needs. */
static struct str
mpint(const BIGNUM *n, unsigned char at[160], size_t zeros)
{
	memset(at, 0, zeros);
	return (struct str){(const char *)at, zeros + (size_t)BN_bn2bin(n, at + zeros)};
}

static size_t
zeros_of(const BIGNUM *n)
{
	return BN_num_bits(n) % 8 == 0;
}

static ECDSA_SIG *
sign(void)
{
	unsigned char der[256];
	const unsigned char *at = der;
	size_t n = sizeof der;
	const EVP_MD *hash = curve == 0 ? EVP_sha256() : curve == 1 ? EVP_sha384() : EVP_sha512();
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	const struct str what = SIGNED;

	assert_int_equal(EVP_DigestSignInit(ctx, NULL, hash, NULL, pkey), 1);
	assert_int_equal(EVP_DigestSign(ctx, der, &n, (const unsigned char *)what.at, what.len), 1);
	EVP_MD_CTX_free(ctx);
	return d2i_ECDSA_SIG(NULL, &at, (long)n);
}

static bool
is_taken(const struct buf *key, const struct buf *signature)
{
	struct err err;

	return pubkey_verify(buf_view(key), SIGNED, buf_view(signature), &err) == 0;
}

static void
make_key(size_t which)
{
	size_t n;

	curve = which;
	pkey = EVP_PKEY_Q_keygen(NULL, NULL, "EC", curves[which].group);
	assert_non_null(pkey);
	assert_int_equal(
	    EVP_PKEY_get_octet_string_param(pkey, OSSL_PKEY_PARAM_PUB_KEY, point, sizeof point, &n),
	    1);
	assert_int_equal(n, curves[which].point_bytes);
}

/* One spelling of each integer, and none that is not positive or longer than the curve. */
static void
signatures_have_two_positive_integers(void **state)
{
	unsigned char r_at[160], s_at[160];

	(void)state;
	for (size_t c = 0; c < 3; c++) {
		auto_buf key = BUF_MAX(1024);
		auto_buf sig = BUF_MAX(1024);
		make_key(c);
		const char *name = curves[c].name;
		put_key(&key, name, curves[c].curve,
			(struct str){(char *)point, curves[c].point_bytes});
		ECDSA_SIG *both = sign();
		const BIGNUM *r = ECDSA_SIG_get0_r(both), *s = ECDSA_SIG_get0_s(both);
		const struct str good_s = mpint(s, s_at, zeros_of(s));
		put_signature(&sig, name, mpint(r, r_at, zeros_of(r)), good_s, "");
		assert_true(is_taken(&key, &sig));
		put_signature(&sig, name, mpint(r, r_at, zeros_of(r) + 1), good_s, "");
		assert_false(is_taken(&key, &sig));
		put_signature(&sig, name, mpint(r, r_at, 80), good_s, "");
		assert_false(is_taken(&key, &sig));
		put_signature(&sig, name, mpint(r, r_at, zeros_of(r)), good_s, "x");
		assert_false(is_taken(&key, &sig));
		put_signature(&sig, name, STR_LIT(""), good_s, "");
		assert_false(is_taken(&key, &sig));
		put_signature(&sig, name, STR_LIT("\0"), good_s, "");
		assert_false(is_taken(&key, &sig));
		put_signature(&sig, name, STR_LIT("\x80"), good_s, "");
		assert_false(is_taken(&key, &sig));
		memset(r_at, 0x7f, sizeof r_at);
		put_signature(&sig, name, (struct str){(char *)r_at, 68}, good_s, "");
		assert_false(is_taken(&key, &sig));
		put_signature(&sig, name, (struct str){(char *)r_at, 67}, good_s, "");
		assert_false(is_taken(&key, &sig));
		ECDSA_SIG_free(both);
		EVP_PKEY_free(pkey);
	}
}

static void
kind_curve_point_and_signature_are_of_one_key(void **state)
{
	unsigned char r_at[160], s_at[160];
	auto_buf key = BUF_MAX(1024);
	auto_buf sig = BUF_MAX(1024);

	(void)state;
	make_key(0);
	const struct str whole = {(char *)point, 65};
	ECDSA_SIG *both = sign();
	const BIGNUM *r = ECDSA_SIG_get0_r(both), *s = ECDSA_SIG_get0_s(both);
	const struct str good_r = mpint(r, r_at, zeros_of(r)), good_s = mpint(s, s_at, zeros_of(s));
	put_signature(&sig, "ecdsa-sha2-nistp384", good_r, good_s, "");
	put_key(&key, "ecdsa-sha2-nistp256", "nistp256", whole);
	assert_false(is_taken(&key, &sig));
	put_signature(&sig, "ecdsa-sha2-nistp256", good_r, good_s, "");
	assert_true(is_taken(&key, &sig));
	put_key(&key, "ecdsa-sha2-nistp256", "nistp384", whole);
	assert_false(is_taken(&key, &sig));
	put_key(&key, "ecdsa-sha2-nistp384", "nistp256", whole);
	assert_false(is_taken(&key, &sig));
	put_key(&key, "ecdsa-sha2-nistp256", "nistp256", (struct str){(char *)point, 64});
	assert_false(is_taken(&key, &sig));
	put_key(&key, "ecdsa-sha2-nistp256", "nistp256", STR_LIT("\0"));
	assert_false(is_taken(&key, &sig));
	point[64] ^= 1; /* not on the curve */
	put_key(&key, "ecdsa-sha2-nistp256", "nistp256", whole);
	assert_false(is_taken(&key, &sig));
	ECDSA_SIG_free(both);
	EVP_PKEY_free(pkey);
}

static void
lengths_beyond_the_end_take_nothing(void **state)
{
	static const struct {
		const char *at;
		size_t n;
	} bytes[] = {{"", 0},
		     {"\0\0\0", 3},
		     {"\0\0\0\1", 4},
		     {"\xff\xff\xff\xff", 4},
		     {"\xff\xff\xff\xffxxxx", 8},
		     {"\x7f\xff\xff\xff", 4},
		     {"\0\0\0\5abcd", 8}};
	struct str out = STR_LIT("untouched");
	uint64_t n;

	(void)state;
	for (size_t i = 0; i < sizeof bytes / sizeof *bytes; i++) {
		struct str rest = {bytes[i].at, bytes[i].n};
		assert_false(pubkey_take_string(&rest, &out));
		assert_int_equal(rest.len, bytes[i].n);
		assert_true(str_is(out, "untouched"));
	}
	struct str rest = STR_LIT("1234567");
	assert_false(pubkey_take_u64(&rest, &n));
	assert_int_equal(rest.len, 7);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(signatures_have_two_positive_integers),
	    cmocka_unit_test(kind_curve_point_and_signature_are_of_one_key),
	    cmocka_unit_test(lengths_beyond_the_end_take_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
