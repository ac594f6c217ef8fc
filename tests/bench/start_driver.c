/* N connections, each authenticated as a name of its own beforehand; then, one after another or all
 * at once, the first channel of each: from its opening to the exit status of `true`. A thread a
 * connection, blocking calls alone: what it measures is the server, since the work of a client in
 * Python would be most of a burst's time on a small machine.
 *   start_driver PORT KEY PREFIX FIRST N seq|burst
 * Prints the milliseconds of each, a line each, in order. */
#include <libssh/libssh.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { AT_ONCE_MAX = 1000, STACK_BYTES = 256 << 10, TIMEOUT_S = 60 };

struct client {
	ssh_session session;
	double ms;
	char failed[256]; /* empty: it went well */
};

static pthread_barrier_t start_line;

static double
now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static void
die(const char *what, ssh_session s)
{
	fprintf(stderr, "start_driver: %s: %s\n", what, s ? ssh_get_error(s) : "no memory");
	exit(1);
}

static ssh_session
log_in(unsigned port, ssh_key key, const char *user)
{
	const long timeout_s = TIMEOUT_S;
	const int no = 0;
	ssh_session s = ssh_new();

	if (!s)
		die("ssh_new", NULL);
	ssh_options_set(s, SSH_OPTIONS_HOST, "127.0.0.1");
	ssh_options_set(s, SSH_OPTIONS_PORT, &port);
	ssh_options_set(s, SSH_OPTIONS_USER, user);
	ssh_options_set(s, SSH_OPTIONS_TIMEOUT, &timeout_s);
	ssh_options_set(s, SSH_OPTIONS_PROCESS_CONFIG, &no);
	ssh_options_set(s, SSH_OPTIONS_KEY_EXCHANGE, "curve25519-sha256");
	ssh_options_set(s, SSH_OPTIONS_CIPHERS_C_S, "aes256-gcm@openssh.com");
	ssh_options_set(s, SSH_OPTIONS_CIPHERS_S_C, "aes256-gcm@openssh.com");
	if (ssh_connect(s) != SSH_OK)
		die("connect", s);
	if (ssh_userauth_publickey(s, NULL, key) != SSH_AUTH_SUCCESS)
		die("authenticate", s);
	return s;
}

static void
first_command(struct client *c)
{
	const double began_ms = now_ms();
	ssh_channel channel = ssh_channel_new(c->session);
	char byte;

	if (ssh_channel_open_session(channel) != SSH_OK ||
	    ssh_channel_request_exec(channel, "true") != SSH_OK) {
		snprintf(c->failed, sizeof c->failed, "%s", ssh_get_error(c->session));
		return;
	}
	while (ssh_channel_read(channel, &byte, 1, 0) > 0)
		;
	const int status = ssh_channel_get_exit_status(channel);
	c->ms = now_ms() - began_ms;
	if (status != 0) {
		char said[160] = "";
		ssh_channel_read(channel, said, sizeof said - 1, 1);
		snprintf(c->failed, sizeof c->failed, "exit status %d: %s", status, said);
	}
	ssh_channel_free(channel);
}

static void *
run_at_once(void *take_client)
{
	pthread_barrier_wait(&start_line);
	first_command(take_client);
	return NULL;
}

static void
burst(struct client *clients, unsigned n)
{
	pthread_t threads[AT_ONCE_MAX];
	pthread_attr_t attr;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	pthread_barrier_init(&start_line, NULL, n);
	for (unsigned i = 0; i < n; i++)
		if (pthread_create(&threads[i], &attr, run_at_once, &clients[i]) != 0)
			die("start a thread", NULL);
	for (unsigned i = 0; i < n; i++)
		pthread_join(threads[i], NULL);
}

int
main(int argc, char **argv)
{
	if (argc != 7) {
		fprintf(stderr, "usage: start_driver PORT KEY PREFIX FIRST N seq|burst\n");
		return 2;
	}
	const unsigned port = (unsigned)atoi(argv[1]), first = (unsigned)atoi(argv[4]),
		       n = (unsigned)atoi(argv[5]);
	struct client *clients = calloc(n, sizeof *clients);
	int status = 0;
	ssh_key key;

	if (n > AT_ONCE_MAX || !clients || ssh_init() != SSH_OK ||
	    ssh_pki_import_privkey_file(argv[2], NULL, NULL, NULL, &key) != SSH_OK)
		die("begin", NULL);
	for (unsigned i = 0; i < n; i++) {
		char user[64];
		snprintf(user, sizeof user, "%s%u", argv[3], first + i);
		clients[i].session = log_in(port, key, user);
	}
	if (strcmp(argv[6], "burst") == 0)
		burst(clients, n);
	else
		for (unsigned i = 0; i < n; i++)
			first_command(&clients[i]);
	for (unsigned i = 0; i < n; i++) {
		printf("%.3f\n", clients[i].ms);
		if (clients[i].failed[0]) {
			fprintf(stderr, "start_driver: %s%u: %s\n", argv[3], first + i,
				clients[i].failed);
			status = 1;
		}
		ssh_disconnect(clients[i].session);
	}
	return status;
}
