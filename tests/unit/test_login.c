/* Certificates made by ssh-keygen, judged whole, and with every byte changed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/fd.h"
#include "base/path.h"
#include "base/time.h"
#include "manager/spawn.h"
#include "server/manager/login.c"

#include <openssl/evp.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

static char room[] = "/tmp/berth-cert.XXXXXX";

static void
shell(const char *line)
{
	const char *const argv[] = {"/bin/sh", "-c", line, NULL};
	struct err err;

	if (spawn_run(argv, &err) < 0)
		fail_msg("failed: %s: %s", line, err.why);
}

static void
keygen(const char *words)
{
	char line[2048];

	snprintf(line, sizeof line, "cd %s && ssh-keygen -q %s >/dev/null 2>&1", room, words);
	shell(line);
}

static struct str
read_text(const char *name, struct buf *out)
{
	struct err err;
	auto_close int dir = open(room, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	buf_clear(out);
	assert_int_equal(path_read(dir, name, out, &err), 0);
	struct str line, rest = buf_view(out);
	str_cut(&rest, '\n', &line);
	return line;
}

static void
read_blob(const char *name, struct buf *out)
{
	auto_buf text = BUF_MAX(65536);
	struct str rest = read_text(name, &text), word;
	struct err err;

	str_cut(&rest, ' ', &word);
	str_cut(&rest, ' ', &word);
	assert_int_equal(pubkey_decode(word, out, &err), 0);
}

/* ---- one authority's line, and a question ---- */

struct door_room {
	struct keys keys;
	struct login_question q;
	struct source source;
	struct login l;
	struct err err;
};

static void
with_line(struct door_room *r, const char *options, const char *key)
{
	auto_buf text = BUF_MAX(65536);
	auto_buf line = BUF_MAX(65536);
	const struct str key_text = read_text(key, &text);

	buf_fmt(&line, "%s%s%.*s", options, options[0] ? " " : "", (int)key_text.len, key_text.at);
	if (!r->keys.list)
		r->keys.list = xnew(8, sizeof *r->keys.list);
	assert_int_equal(key_line_parse(buf_view(&line), &r->keys.list[r->keys.n++], &r->err), 1);
}

static struct door_room
open_room(const char *options, const char *key)
{
	struct door_room r = {.source = source_parse(STR_LIT("10.1.2.3"))};

	with_line(&r, options, key);
	r.q = (struct login_question){
	    .user = STR_LIT("demo"), .roles = ~0u, .now_s = time_real_ns() / NS_PER_S};
	return r;
}

static int
ask_text(struct door_room *r, struct str text)
{
	r->q.source = &r->source;
	r->q.key = text;
	login_done(&r->l);
	r->err = (struct err){0};
	return login_decide(&r->keys, &r->q, &r->l, &r->err);
}

static int
ask(struct door_room *r, const char *name)
{
	auto_buf text = BUF_MAX(65536);

	struct str line = read_text(name, &text), rest = line, word;
	str_cut(&rest, ' ', &word);
	str_cut(&rest, ' ', &word); /* without the comment, as a conn sends it */
	return ask_text(r, (struct str){line.at, (size_t)(word.at + word.len - line.at)});
}

static void
close_room(struct door_room *r)
{
	for (size_t i = 0; i < r->keys.n; i++)
		key_done(&r->keys.list[i]);
	free(r->keys.list);
	revoked_done(&r->keys.revoked);
	login_done(&r->l);
}

static void
says(const struct door_room *r, const char *words)
{
	if (!strstr(r->err.why, words))
		fail_msg("said: %s, not: %s", r->err.why, words);
}

/* ---- claims ---- */

static void
sign(const char *options)
{
	char words[512];

	snprintf(words, sizeof words, "-s ca_ed25519 %s user.pub", options);
	keygen(words);
}

static void
every_kind_of_authority_and_key_is_verified(void **state)
{
	static const char *const kinds[] = {"ed25519", "ecdsa256", "ecdsa384", "ecdsa521", "rsa"};

	(void)state;
	for (size_t ca = 0; ca < 5; ca++) {
		for (size_t key = 0; key < 5; key++) {
			char words[256], name[64];
			snprintf(name, sizeof name, "ca_%s.pub", kinds[ca]);
			snprintf(words, sizeof words, "-s ca_%s -I %s -n demo key_%s.pub",
				 kinds[ca], kinds[key], kinds[key]);
			keygen(words);
			struct door_room r = open_room("cert-authority", name);
			snprintf(name, sizeof name, "key_%s-cert.pub", kinds[key]);
			if (ask(&r, name) < 0)
				fail_msg("%s by %s: %s", kinds[key], kinds[ca], r.err.why);
			assert_string_equal(r.l.id, kinds[key]);
			assert_int_equal(r.l.allow.flags, ALLOW_ALL);
			close_room(&r);
		}
	}
	keygen("-s ca_rsa -t rsa-sha2-256 -I x -n demo user.pub");
	struct door_room r = open_room("cert-authority", "ca_rsa.pub");
	assert_int_equal(ask(&r, "user-cert.pub"), 0);
	close_room(&r);
}

static void
sha1_signs_nothing(void **state)
{
	(void)state;
	keygen("-s ca_rsa -t ssh-rsa -I x -n demo user.pub");
	struct door_room r = open_room("cert-authority", "ca_rsa.pub");
	assert_int_equal(ask(&r, "user-cert.pub"), -1);
	says(&r, "signed by ssh-rsa");
	close_room(&r);
}

/* Whoever may choose his key id must not become another one by it. */
static void
no_key_id_is_another_ones_name(void **state)
{
	char first[72], words[256];

	(void)state;
	sign("-I 'anna 7' -n demo");
	struct door_room r = open_room("cert-authority", "ca_ed25519.pub");
	assert_int_equal(ask(&r, "user-cert.pub"), 0);
	snprintf(first, sizeof first, "%s", r.l.id);
	snprintf(words, sizeof words, "-I '%s' -n demo", first);
	sign(words);
	assert_int_equal(ask(&r, "user-cert.pub"), 0);
	assert_string_not_equal(r.l.id, first);
	sign("-I 1234567890123456789012345678901234567890123456789 -n demo");
	assert_int_equal(ask(&r, "user-cert.pub"), 0);
	assert_int_equal(strlen(r.l.id),
			 24 + 1 + 32); /* as much of a digest as nobody finds twice */
	close_room(&r);
}

static void
who_it_is_stands_in_the_login(void **state)
{
	(void)state;
	sign("-I 'anna 7' -z 42 -n demo,other -V -1m:+1h -O clear -O permit-pty");
	struct door_room r =
	    open_room("cert-authority,role=\"developer\",sessions=\"d*\",no-port-forwarding",
		      "ca_ed25519.pub");
	assert_int_equal(ask(&r, "user-cert.pub"), 0);
	assert_int_equal(r.l.serial, 42);
	assert_int_equal(strncmp(r.l.id, "anna_7~", 7), 0);
	assert_int_equal(r.l.role, PRINCIPAL_DEVELOPER);
	assert_string_equal(r.l.scope.globs, "d*");
	assert_int_equal(r.l.allow.flags, ALLOW_PTY);
	assert_true(r.l.until_s > r.q.now_s && r.l.until_s <= r.q.now_s + 3600);
	assert_int_equal(strncmp(r.l.principal, r.l.authority, 50), 0);
	close_room(&r);
}

static void
an_authoritys_line_limits_what_it_signs(void **state)
{
	(void)state;
	sign("-I x -n demo");
	struct door_room r =
	    open_room("cert-authority,restrict,pty,permitopen=\"h:1\"", "ca_ed25519.pub");
	assert_int_equal(ask(&r, "user-cert.pub"), 0);
	assert_int_equal(r.l.allow.flags, ALLOW_PTY);
	assert_string_equal(r.l.allow.open, "h:1");
	r.q.roles = 1u << PRINCIPAL_DEVELOPER;
	assert_int_equal(ask(&r, "user-cert.pub"), -1);
	close_room(&r);
	r = open_room("cert-authority,from=\"192.168.*\"", "ca_ed25519.pub");
	assert_int_equal(ask(&r, "user-cert.pub"), -1);
	says(&r, "not for logins from 10.1.2.3");
	close_room(&r);
	r = open_room("cert-authority,expiry-time=\"20200101\"", "ca_ed25519.pub");
	assert_int_equal(ask(&r, "user-cert.pub"), -1);
	says(&r, "has expired");
	close_room(&r);
}

static void
principals_are_the_users_or_the_lines(void **state)
{
	(void)state;
	sign("-I x -n demo");
	struct door_room r = open_room("cert-authority", "ca_ed25519.pub");
	assert_int_equal(ask(&r, "user-cert.pub"), 0);
	r.q.user = STR_LIT("other");
	assert_int_equal(ask(&r, "user-cert.pub"), -1);
	says(&r, "does not name other");
	close_room(&r);
	r = open_room("cert-authority,principals=\"agents, demo\"", "ca_ed25519.pub");
	r.q.user = STR_LIT("anything");
	assert_int_equal(ask(&r, "user-cert.pub"), 0);
	sign("-I x -n demon");
	assert_int_equal(ask(&r, "user-cert.pub"), -1);
	says(&r, "none of the principals");
	sign("-I x"); /* for everybody, to a host; for nobody, to a user's file */
	assert_int_equal(ask(&r, "user-cert.pub"), -1);
	says(&r, "names no principal");
	close_room(&r);
}

static void
each_thing_that_is_wrong_is_refused(void **state)
{
	static const struct {
		const char *made, *said;
	} bad[] = {
	    {"-s ca_other -I x -n demo", "is not known"},
	    {"-s ca_ed25519 -h -I x -n demo", "not a user certificate"},
	    {"-s ca_ed25519 -I x -n demo -V 20200101:20210101", "has expired"},
	    {"-s ca_ed25519 -I x -n demo -V +1h:+2h", "not valid yet"},
	    {"-s ca_ed25519 -I x -n demo -O force-command=id", "force-command is not supported"},
	    {"-s ca_ed25519 -I x -n demo -O verify-required", "verify-required is not supported"},
	    {"-s ca_ed25519 -I x -n demo -O critical:new@example.com=1",
	     "new@example.com is not supported"},
	    {"-s ca_ed25519 -I x -n demo -O source-address=10.2.0.0/16,192.168.1.1",
	     "not for logins from"},
	    {"-s ca_ed25519 -I x -n demo -O source-address=fd00::/8", "not for logins from"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		char words[512];
		snprintf(words, sizeof words, "%s user.pub", bad[i].made);
		keygen(words);
		struct door_room r = open_room("cert-authority", "ca_ed25519.pub");
		if (ask(&r, "user-cert.pub") != -1)
			fail_msg("taken: %s", bad[i].made);
		says(&r, bad[i].said);
		close_room(&r);
	}
	struct door_room r = open_room("cert-authority", "ca_ed25519.pub");
	sign("-I x -n demo -O source-address=10.0.0.0/8,fd00::/8 -O extension:new@example.com=1");
	assert_int_equal(ask(&r, "user-cert.pub"), 0);
	r.source = source_parse(STR_LIT("fd12::1"));
	assert_int_equal(ask(&r, "user-cert.pub"), 0);
	r.source = source_parse(STR_LIT("11.0.0.1"));
	assert_int_equal(ask(&r, "user-cert.pub"), -1);
	close_room(&r);
}

static void
an_authority_is_no_key_and_a_key_no_authority(void **state)
{
	(void)state;
	sign("-I x -n demo");
	struct door_room r = open_room("cert-authority", "ca_ed25519.pub");
	assert_int_equal(ask(&r, "ca_ed25519.pub"), -1);
	assert_int_equal(ask(&r, "user.pub"), -1);
	close_room(&r);
	r = open_room("", "ca_ed25519.pub");
	assert_int_equal(ask(&r, "user-cert.pub"), -1);
	assert_int_equal(ask(&r, "ca_ed25519.pub"), 0);
	close_room(&r);
	/* a certificate's key alone does not come in by it, nor does its certificate by its line */
	r = open_room("", "user.pub");
	assert_int_equal(ask(&r, "user-cert.pub"), -1);
	close_room(&r);
}

static void
a_second_line_may_let_in_what_the_first_does_not(void **state)
{
	(void)state;
	struct door_room r = open_room("from=\"192.168.*\",role=\"operator\"", "user.pub");
	assert_int_equal(ask(&r, "user.pub"), -1);
	with_line(&r, "role=\"developer\"", "user.pub");
	assert_int_equal(ask(&r, "user.pub"), 0);
	assert_int_equal(r.l.role, PRINCIPAL_DEVELOPER);
	close_room(&r);
}

static void
revoke_all(struct door_room *r, const char *list)
{
	revoked_done(&r->keys.revoked);
	revoked_parse(str_of(list), &r->keys.revoked);
}

static void
what_is_revoked_stays_out(void **state)
{
	auto_buf text = BUF_MAX(65536);
	char line[512];

	(void)state;
	sign("-I anna -z 42 -n demo");
	struct door_room r = open_room("cert-authority", "ca_ed25519.pub");
	static const char *const not_it[] = {"", "# nothing\n\n",
					     "serial: 41\nserial: 43-50\nid: ann\nid: annax\n"};
	for (size_t i = 0; i < 3; i++) {
		revoke_all(&r, not_it[i]);
		assert_int_equal(ask(&r, "user-cert.pub"), 0);
	}
	static const char *const it[] = {"serial: 42", "serial: 40-42\r\n", "serial:42", "id: anna",
					 "id:anna\n"};
	for (size_t i = 0; i < 5; i++) {
		revoke_all(&r, it[i]);
		assert_int_equal(ask(&r, "user-cert.pub"), -1);
		says(&r, "revoked");
	}
	static const char *const keys[] = {"ca_ed25519.pub", "user.pub"};
	for (size_t i = 0; i < 2; i++) {
		const struct str key = read_text(keys[i], &text);
		snprintf(line, sizeof line, "%.*s\n", (int)key.len, key.at);
		revoke_all(&r, line);
		assert_int_equal(ask(&r, "user-cert.pub"), -1);
		says(&r, "is revoked");
	}
	revoke_all(&r, "");
	assert_int_equal(ask(&r, "user-cert.pub"), 0);
	snprintf(line, sizeof line, "sha256: %s\n", r.l.offered);
	revoke_all(&r, line);
	assert_int_equal(ask(&r, "user-cert.pub"), -1);
	snprintf(line, sizeof line, "hash: %s\n", r.l.authority);
	revoke_all(&r, line);
	assert_int_equal(ask(&r, "user-cert.pub"), -1);
	close_room(&r);
	r = open_room("", "user.pub");
	revoke_all(&r, line);
	assert_int_equal(ask(&r, "user.pub"), 0);
	snprintf(line, sizeof line, "sha256: %s\n", r.l.offered);
	revoke_all(&r, line);
	assert_int_equal(ask(&r, "user.pub"), -1);
	close_room(&r);
}

static void
a_list_that_is_not_understood_lets_nobody_in(void **state)
{
	static const char *const bad[] = {"SSHKRL\n",
					  "serial: x",
					  "serial: 5-4",
					  "serial:",
					  "id:",
					  "sha256: abc",
					  "sha1: x",
					  "ssh-ed25519 AAAA",
					  "ssh-dss AAAA",
					  "serial: 1\nnonsense\n",
					  "restrict ssh-ed25519 AAAA"};

	(void)state;
	struct door_room r = open_room("", "user.pub");
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		revoke_all(&r, bad[i]);
		if (ask(&r, "user.pub") != -1)
			fail_msg("let in with: %s", bad[i]);
		says(&r, "nobody is let in");
	}
	close_room(&r);
}

static int
ask_blob(struct door_room *r, const char *blob, size_t n)
{
	auto_buf text = BUF_MAX(65536);
	auto_free unsigned char *base64 = xnew(1, n * 2 + 64);

	EVP_EncodeBlock(base64, (const unsigned char *)blob, (int)n);
	buf_fmt(&text, "x %s", (const char *)base64);
	return ask_text(r, buf_view(&text));
}

static void
no_byte_can_be_changed_or_left_out(void **state)
{
	static const char *const cas[] = {"ca_ed25519", "ca_ecdsa256", "ca_rsa"};

	(void)state;
	for (size_t i = 0; i < 3; i++) {
		auto_buf blob = BUF_MAX(65536);
		char words[256], name[64];
		snprintf(words, sizeof words,
			 "-s %s -I anna -z 7 -n demo -O source-address=10.0.0.0/8 user.pub",
			 cas[i]);
		keygen(words);
		snprintf(name, sizeof name, "%s.pub", cas[i]);
		struct door_room r = open_room("cert-authority", name);
		with_line(&r, "cert-authority", "ca_other.pub");
		read_blob("user-cert.pub", &blob);
		assert_int_equal(ask_blob(&r, blob.at, blob.len), 0);
		for (size_t at = 0; at < blob.len; at++)
			for (int bit = 0; bit < 8; bit += i == 0 ? 1 : 5) {
				blob.at[at] = (char)(blob.at[at] ^ 1 << bit);
				if (ask_blob(&r, blob.at, blob.len) != -1)
					fail_msg("bit %d of byte %zu changed, and taken", bit, at);
				blob.at[at] = (char)(blob.at[at] ^ 1 << bit);
			}
		for (size_t n = 0; n < blob.len; n++)
			assert_int_equal(ask_blob(&r, blob.at, n), -1);
		buf_char(&blob, '\0');
		assert_int_equal(ask_blob(&r, blob.at, blob.len), -1);
		close_room(&r);
	}
}

static unsigned
next_random(unsigned *seed)
{
	*seed = *seed * 1664525 + 1013904223;
	return *seed >> 8;
}

/* Bent certificates that are not stopped by their signature: what an authority could write. */
static void
a_hundred_thousand_bent_certificates_do_no_harm(void **state)
{
	auto_buf blob = BUF_MAX(65536);
	unsigned seed = 11, split = 0, judged = 0;
	const struct source source = source_parse(STR_LIT("10.1.2.3"));
	const struct cert_wanted w = {.principals = "demo,x",
				      .user = STR_LIT("demo"),
				      .source = &source,
				      .now_s = time_real_ns() / NS_PER_S};

	(void)state;
	sign("-I anna -z 7 -n demo,other -O source-address=10.0.0.0/8,fd00::/8");
	read_blob("user-cert.pub", &blob);
	for (int i = 0; i < 100000; i++) {
		struct cert c;
		struct err err;
		struct cert_granted granted;
		size_t n = blob.len;
		char *bent = xstrndup(buf_view(&blob));
		for (unsigned times = 1 + next_random(&seed) % 3; times > 0; times--)
			bent[next_random(&seed) % n] =
			    (char)(next_random(&seed) % 3 ? next_random(&seed)
							  : next_random(&seed) % 4);
		if (next_random(&seed) % 4 == 0)
			n = next_random(&seed) % n;
		char *exact = xnew(1, n ? n : 1); /* its end is watched */
		memcpy(exact, bent, n);
		cert_is((struct str){exact, n});
		if (cert_split((struct str){exact, n}, &c, &err) == 0) {
			split++;
			judged += cert_judge(&c, &w, &granted, &err) == 0;
			if (i % 16 == 0)
				assert_int_equal(cert_verify(&c, &err) == 0 && n == blob.len &&
						     memcmp(exact, blob.at, n) != 0,
						 0);
		}
		cert_done(&c);
		free(exact);
		free(bent);
	}
	assert_true(split > 1000 && judged > 100);
}

static void
small_rsa_and_dsa_are_not_keys(void **state)
{
	auto_buf text = BUF_MAX(65536);
	struct key k;
	struct err err;

	(void)state;
	keygen("-t rsa -b 1024 -N '' -f small");
	assert_int_equal(key_line_parse(read_text("small.pub", &text), &k, &err), -1);
	assert_non_null(strstr(err.why, "1024 bits"));
	keygen("-t dsa -N '' -f old");
	assert_int_equal(key_line_parse(read_text("old.pub", &text), &k, &err), -1);
}

static int
make_keys(void **state)
{
	(void)state;
	if (!mkdtemp(room))
		return -1;
	keygen("-t ed25519 -N '' -f ca_ed25519");
	keygen("-t ed25519 -N '' -f ca_other");
	keygen("-t ecdsa -b 256 -N '' -f ca_ecdsa256");
	keygen("-t ecdsa -b 384 -N '' -f ca_ecdsa384");
	keygen("-t ecdsa -b 521 -N '' -f ca_ecdsa521");
	keygen("-t rsa -b 2048 -N '' -f ca_rsa");
	keygen("-t ed25519 -N '' -f user");
	keygen("-t ed25519 -N '' -f key_ed25519");
	keygen("-t ecdsa -b 256 -N '' -f key_ecdsa256");
	keygen("-t ecdsa -b 384 -N '' -f key_ecdsa384");
	keygen("-t ecdsa -b 521 -N '' -f key_ecdsa521");
	keygen("-t rsa -b 2048 -N '' -f key_rsa");
	return 0;
}

static int
remove_keys(void **state)
{
	char line[128];

	(void)state;
	snprintf(line, sizeof line, "rm -rf %s", room);
	shell(line);
	return 0;
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(every_kind_of_authority_and_key_is_verified),
	    cmocka_unit_test(sha1_signs_nothing),
	    cmocka_unit_test(no_key_id_is_another_ones_name),
	    cmocka_unit_test(who_it_is_stands_in_the_login),
	    cmocka_unit_test(an_authoritys_line_limits_what_it_signs),
	    cmocka_unit_test(principals_are_the_users_or_the_lines),
	    cmocka_unit_test(each_thing_that_is_wrong_is_refused),
	    cmocka_unit_test(an_authority_is_no_key_and_a_key_no_authority),
	    cmocka_unit_test(a_second_line_may_let_in_what_the_first_does_not),
	    cmocka_unit_test(what_is_revoked_stays_out),
	    cmocka_unit_test(a_list_that_is_not_understood_lets_nobody_in),
	    cmocka_unit_test(no_byte_can_be_changed_or_left_out),
	    cmocka_unit_test(a_hundred_thousand_bent_certificates_do_no_harm),
	    cmocka_unit_test(small_rsa_and_dsa_are_not_keys),
	};
	return cmocka_run_group_tests(tests, make_keys, remove_keys);
}
