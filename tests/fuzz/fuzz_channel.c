/* One SSH connection after login: a client, a keeper and a manager that do anything in any order,
 * also while libssh is in the middle of a write, and break off at any time. libssh is a fake that
 * behaves as 0.10 was read: it pumps in most of its calls, opens windows when it is read from,
 * frees a channel when both sides have closed it. What it is never to be asked is claimed. */
#include "fuzz.h"

#include "base/time.h"
#include "server/conn/conn.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

static int fuzz_poll(struct pollfd *fds, nfds_t n, int ms);
static uint64_t fuzz_now(void);

#define main        conn_main
#define poll        fuzz_poll
#define time_now_ns fuzz_now
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
#pragma GCC diagnostic ignored "-Wunused-function"
#include "server/conn/conn.c"
#include "server/conn/forward.c"
#include "server/conn/peers.c"
#undef main
#undef poll
#undef time_now_ns

enum { OWN_MAX = 16, DEPTH_MAX = 3, HELD_MAX = 8192 };
enum fake_state { FAKE_NEW, FAKE_OPENING, FAKE_OPEN, FAKE_DENIED };

struct ssh_channel_struct {
	bool used, freed, close_sent, eof_sent, closed;
	enum fake_state state;
	ssh_channel_callbacks callbacks;
	uint32_t window;
	char held[HELD_MAX];
	uint32_t n;
};

struct ssh_message_struct {
	int type, subtype;
	ssh_channel channel;
	const char *text;
	int number;
	bool answered;
};

static struct {
	const uint8_t *at, *end;
	struct ssh_channel_struct channels[OWN_MAX];
	int depth;
	bool blocked, gone;
	uint64_t now;
	struct conn conn;
	struct wire manager, keeper; /* the other ends */
	int fd;
} fake;

static unsigned
byte(void)
{
	return fake.at < fake.end ? *fake.at++ : 0;
}

static uint64_t
fuzz_now(void)
{
	return fake.now;
}

/* ---- what the client does ---- */

static ssh_channel
some_channel(void)
{
	ssh_channel ch = &fake.channels[byte() % OWN_MAX];
	return ch->used && ch->state == FAKE_OPEN && !ch->closed ? ch : NULL;
}

static void
ask(int type, int subtype, ssh_channel ch)
{
	static const char *const texts[] = {
	    "",           "true", "sftp",      "show demo",
	    "BERTH_CALL", "LC_A", "localhost", "call input c_aaaaaaaaaaaaaaaa",
	    "help"};
	struct ssh_message_struct m = {.type = type,
				       .subtype = subtype,
				       .channel = ch,
				       .text = texts[byte() % (sizeof texts / sizeof *texts)],
				       .number = (int)(byte() * 300)};

	const int refused = channel_message(NULL, &m, &fake.conn);
	CLAIM(refused || m.answered || subtype == SSH_CHANNEL_REQUEST_WINDOW_CHANGE);
}

static void
send_bytes(ssh_channel ch)
{
	const uint32_t n = byte() * 8;

	if (ch->n + n > HELD_MAX)
		return;
	memset(ch->held + ch->n, 'x', n);
	ch->n += n;
	if (!ch->n || !ch->callbacks || !ch->callbacks->channel_data_function)
		return;
	const int took = ch->callbacks->channel_data_function(NULL, ch, ch->held, ch->n, 0,
							      ch->callbacks->userdata);
	CLAIM(took >= 0 && (uint32_t)took <= ch->n);
	memmove(ch->held, ch->held + took, ch->n - (uint32_t)took);
	ch->n -= (uint32_t)took;
}

static void
forget_if_over(ssh_channel ch)
{
	if (ch->freed && (ch->closed || ch->state != FAKE_OPEN))
		*ch = (struct ssh_channel_struct){0};
}

static void
client_acts(void)
{
	static const int requests[] = {SSH_CHANNEL_REQUEST_EXEC,
				       SSH_CHANNEL_REQUEST_SHELL,
				       SSH_CHANNEL_REQUEST_PTY,
				       SSH_CHANNEL_REQUEST_ENV,
				       SSH_CHANNEL_REQUEST_WINDOW_CHANGE,
				       SSH_CHANNEL_REQUEST_SUBSYSTEM,
				       SSH_CHANNEL_REQUEST_X11};
	const unsigned deed = byte() % 12;
	ssh_channel ch;

	fake.conn.packet_count.in_packets++;
	if (deed == 0) {
		ask(SSH_REQUEST_CHANNEL_OPEN, SSH_CHANNEL_SESSION, NULL);
	} else if (deed == 1) {
		ask(SSH_REQUEST_CHANNEL_OPEN, SSH_CHANNEL_DIRECT_TCPIP, NULL);
	} else if (deed == 2) {
		ask(SSH_REQUEST_GLOBAL,
		    byte() % 2 ? SSH_GLOBAL_REQUEST_TCPIP_FORWARD
			       : SSH_GLOBAL_REQUEST_CANCEL_TCPIP_FORWARD,
		    NULL);
	} else if (deed == 3) {
		for (int i = 0; i < OWN_MAX; i++)
			if (fake.channels[i].state == FAKE_OPENING) {
				fake.channels[i].state = byte() % 2 ? FAKE_OPEN : FAKE_DENIED;
				fake.channels[i].window = 1000;
				break;
			}
	} else if (!(ch = some_channel())) {
		return;
	} else if (deed < 6) {
		ask(SSH_REQUEST_CHANNEL, requests[byte() % 7], ch);
	} else if (deed == 6) {
		send_bytes(ch);
	} else if (deed == 7 && ch->callbacks && ch->callbacks->channel_eof_function) {
		ch->callbacks->channel_eof_function(NULL, ch, ch->callbacks->userdata);
	} else if (deed == 8) {
		ch->closed = true;
		if (ch->callbacks && ch->callbacks->channel_close_function)
			ch->callbacks->channel_close_function(NULL, ch, ch->callbacks->userdata);
		forget_if_over(ch);
	} else if (deed == 9 && byte() % 2 && ch->callbacks &&
		   ch->callbacks->channel_signal_function) {
		ch->callbacks->channel_signal_function(NULL, ch, byte() % 2 ? "TERM" : "x",
						       ch->callbacks->userdata);
	} else if (deed == 9 && ch->callbacks && ch->callbacks->channel_auth_agent_req_function) {
		ch->callbacks->channel_auth_agent_req_function(NULL, ch, ch->callbacks->userdata);
	} else if (deed == 10) {
		ch->window += byte() * 64;
	} else {
		fake.blocked = byte() % 2;
	}
}

/* ---- what keeper and manager do ---- */

static uint32_t
some_number(void)
{
	return byte() % (fake.conn.last_number + 2);
}

static void
drain(struct wire *w)
{
	struct err err;
	int got = 1;

	while (wire_is_open(w) && (got = wire_recv(w, &err)) > 0)
		;
	if (got < 0)
		wire_close(w);
}

static void
keeper_acts(void)
{
	struct err e;
	struct wire *w = &fake.keeper;
	const unsigned deed = byte() % 11;
	const uint32_t n = some_number();
	int journal = memfd_create("journal", MFD_CLOEXEC),
	    growth = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), pair[2];

	drain(w);
	CLAIM(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
	const int three[3] = {pair[0], journal, growth}, two[2] = {pair[0], journal};
	if (!wire_is_open(w))
		;
	else if (deed == 0)
		(void)!wire_send_fds(
		    w, MSG_call_started,
		    &(struct msg_call_started){.channel = n, .call = STR_LIT("c_a")}, three, 3, &e);
	else if (deed == 1)
		(void)!wire_send_fds(w, MSG_call_piped,
				     &(struct msg_call_piped){.channel = n, .call = STR_LIT("c_a")},
				     two, 2, &e);
	else if (deed == 2)
		(void)!wire_send(w, call_refused, &e, .channel = n,
				 .code = byte() % 2 ? ERR_AGAIN : ERR_DENIED, .why = STR_LIT("so"));
	else if (deed == 3)
		(void)!wire_send(w, call_ended, &e, .channel = n, .exit_status = byte(),
				 .signal = byte() % 70,
				 .notice = byte() % 2 ? STR_LIT("said") : STR_LIT(""));
	else if (deed == 4)
		(void)!wire_send(w, call_notice, &e, .channel = n,
				 .text = STR_LIT("it stands still"));
	else if (deed == 5)
		(void)!wire_send_fds(w, MSG_call_joined,
				     &(struct msg_call_joined){.channel = n,
							       .call = STR_LIT("c_a"),
							       .live = byte() % 2,
							       .owner = byte() % 2,
							       .feed = byte() % 2},
				     three, 3, &e);
	else if (deed == 6)
		(void)!wire_send_fds(w, MSG_forward_opened,
				     &(struct msg_forward_opened){.request = n}, pair, 1, &e);
	else if (deed == 7)
		(void)!wire_send(w, forward_failed, &e, .request = n,
				 .code = byte() % 2 ? ERR_AGAIN : ERR_DENIED);
	else if (deed == 8)
		(void)!wire_send(w, forward_listening, &e, .request = n, .port = 1 + byte());
	else if (deed == 9)
		(void)!wire_send_fds(
		    w, MSG_forward_accepted,
		    &(struct msg_forward_accepted){.request = n, .origin = STR_LIT("::1")}, pair, 1,
		    &e);
	else
		wire_close(w);
	if (byte() % 2)
		(void)!write(pair[1], "some bytes", 10);
	close(pair[0]);
	close(pair[1]);
	close(journal);
	close(growth);
}

static void
manager_acts(void)
{
	struct err e;
	struct wire *w = &fake.manager;
	const unsigned deed = byte() % 7;
	int pair[2];

	drain(w);
	if (!wire_is_open(w))
		return;
	if (deed < 2) {
		wire_close(&fake.keeper);
		CLAIM(wire_pair(pair, &e) == 0 && wire_open(&fake.keeper, pair[0], ROLE_KEEPER,
							    ROLE_CONN, PHASE_OPEN, &e) == 0);
		(void)!wire_send_fds(w, MSG_session_ready,
				     &(struct msg_session_ready){.seq = fake.conn.want_seq,
								 .notice = STR_LIT("resumed")},
				     &pair[1], 1, &e);
		close(pair[1]);
	} else if (deed == 2) {
		(void)!wire_send(w, session_failed, &e, .seq = fake.conn.want_seq,
				 .code = ERR_ABSENT, .why = STR_LIT("no"));
	} else if (deed == 3) {
		(void)!wire_send(w, verb_output, &e, .seq = some_number(),
				 .bytes = STR_LIT("words\n"));
	} else if (deed == 4) {
		(void)!wire_send(w, verb_end, &e, .seq = some_number(), .code = byte() % 3);
	} else if (deed == 5) {
		(void)!wire_send(w, agent_ready, &e, .seq = some_number(),
				 .path = byte() % 2 ? STR_LIT("/run/agent") : STR_LIT(""));
	} else if (byte() % 4 == 0) {
		wire_close(w);
	}
}

static void
something_happens(void)
{
	const unsigned who = byte() % 8;

	fake.depth++;
	if (who < 5)
		client_acts();
	else if (who < 7)
		keeper_acts();
	else
		manager_acts();
	fake.depth--;
}

/* Within a call of libssh: what came of the client meanwhile. */
static void
pumps(void)
{
	for (int i = 0; i < 2 && fake.depth < DEPTH_MAX && byte() % 2; i++)
		something_happens();
	fake.gone |= byte() == 255;
}

static int
fuzz_poll(struct pollfd *fds, nfds_t n, int ms)
{
	fake.now += (uint64_t)(ms > 100 ? 100 : ms) * NS_PER_MS;
	if (byte() % 4)
		keeper_acts();
	else
		manager_acts();
	return poll(fds, n, 0);
}

/* ---- libssh ---- */

static int
written(ssh_channel ch, const void *bytes, uint32_t n)
{
	static volatile unsigned char last;

	CLAIM(ch->used && !ch->freed && ch->state == FAKE_OPEN);
	if (byte() % 8 == 0) /* a rekey: it waits, and may take nothing */
		pumps();
	if (ch->closed || ch->close_sent || fake.gone)
		return -1;
	const uint32_t k = n < ch->window ? n : ch->window, sent = byte() % 4 ? k : k / 2;
	for (uint32_t i = 0; i < sent; i++)
		last = ((const unsigned char *)bytes)[i];
	(void)last;
	ch->window -= sent;
	pumps();
	return (int)sent;
}

int
ssh_channel_write(ssh_channel ch, const void *b, uint32_t n)
{
	return written(ch, b, n);
}
int
ssh_channel_write_stderr(ssh_channel ch, const void *b, uint32_t n)
{
	return written(ch, b, n);
}
uint32_t
ssh_channel_window_size(ssh_channel ch)
{
	return ch->window;
}

int
ssh_channel_read_nonblocking(ssh_channel ch, void *out, uint32_t n, int is_err)
{
	(void)is_err;
	CLAIM(ch->used && !ch->freed);
	pumps();
	const uint32_t k = n < ch->n ? n : ch->n;
	memcpy(out, ch->held, k);
	memmove(ch->held, ch->held + k, ch->n - k);
	ch->n -= k;
	return (int)k;
}

int
ssh_channel_send_eof(ssh_channel ch)
{
	CLAIM(ch->used && !ch->freed && ch->state == FAKE_OPEN);
	ch->eof_sent = true;
	pumps();
	return SSH_OK;
}

int
ssh_channel_close(ssh_channel ch)
{
	CLAIM(ch->used && !ch->freed &&
	      ch->state == FAKE_OPEN); /* else it has no number of the client's */
	ch->close_sent = true;
	pumps();
	return SSH_OK;
}

void
ssh_channel_free(ssh_channel ch)
{
	CLAIM(ch->used && !ch->freed && (ch->state != FAKE_OPENING || fake.conn.ended));
	ch->freed = true;
	forget_if_over(ch);
}

static int
opened(ssh_channel ch)
{
	CLAIM(ch->used && !ch->freed);
	if (ch->state == FAKE_NEW)
		ch->state = FAKE_OPENING;
	pumps();
	return ch->state == FAKE_OPENING ? SSH_AGAIN : ch->state == FAKE_OPEN ? SSH_OK : SSH_ERROR;
}

int
ssh_channel_open_reverse_forward(ssh_channel ch, const char *host, int port, const char *source,
				 int source_port)
{
	(void)host, (void)port, (void)source, (void)source_port;
	return opened(ch);
}

int
ssh_channel_open_auth_agent(ssh_channel ch)
{
	return opened(ch);
}

ssh_channel
ssh_channel_new(ssh_session s)
{
	(void)s;
	for (int i = 0; i < OWN_MAX; i++)
		if (!fake.channels[i].used) {
			fake.channels[i].used = true;
			return &fake.channels[i];
		}
	return NULL;
}

int
ssh_message_channel_request_open_reply_accept_channel(ssh_message m, ssh_channel ch)
{
	CLAIM(!m->answered && ch->state == FAKE_NEW);
	m->answered = true;
	ch->state = FAKE_OPEN;
	ch->window = byte() * 16;
	return SSH_OK;
}

int
ssh_channel_is_open(ssh_channel ch)
{
	return ch->state == FAKE_OPEN && !ch->closed && !ch->close_sent;
}
void
ssh_channel_set_blocking(ssh_channel ch, int b)
{
	(void)ch, (void)b;
}
int
ssh_set_channel_callbacks(ssh_channel ch, ssh_channel_callbacks cb)
{
	ch->callbacks = cb;
	return SSH_OK;
}
int
ssh_remove_channel_callbacks(ssh_channel ch, ssh_channel_callbacks cb)
{
	(void)cb;
	ch->callbacks = NULL;
	return SSH_OK;
}
int
ssh_channel_request_send_exit_status(ssh_channel ch, int n)
{
	(void)n;
	CLAIM(ch->state == FAKE_OPEN);
	pumps();
	return SSH_OK;
}
int
ssh_channel_request_send_exit_signal(ssh_channel ch, const char *a, int b, const char *c,
				     const char *d)
{
	(void)a, (void)b, (void)c, (void)d;
	CLAIM(ch->state == FAKE_OPEN);
	pumps();
	return SSH_OK;
}
int
ssh_message_type(ssh_message m)
{
	return m->type;
}
int
ssh_message_subtype(ssh_message m)
{
	return m->subtype;
}
ssh_channel
ssh_message_channel_request_channel(ssh_message m)
{
	return m->channel;
}
int
ssh_message_channel_request_reply_success(ssh_message m)
{
	CLAIM(!m->answered);
	m->answered = true;
	return SSH_OK;
}
int
ssh_message_global_request_reply_success(ssh_message m, uint16_t p)
{
	(void)p;
	m->answered = true;
	return SSH_OK;
}
const char *
ssh_message_channel_request_command(ssh_message m)
{
	return m->text;
}
const char *
ssh_message_channel_request_subsystem(ssh_message m)
{
	return m->text;
}
const char *
ssh_message_channel_request_env_name(ssh_message m)
{
	return m->text;
}
const char *
ssh_message_channel_request_env_value(ssh_message m)
{
	return m->text;
}
const char *
ssh_message_channel_request_pty_term(ssh_message m)
{
	return m->text;
}
int
ssh_message_channel_request_pty_width(ssh_message m)
{
	return m->number;
}
int
ssh_message_channel_request_pty_height(ssh_message m)
{
	return m->number;
}
int
ssh_message_channel_request_pty_pxwidth(ssh_message m)
{
	return m->number;
}
int
ssh_message_channel_request_pty_pxheight(ssh_message m)
{
	return m->number;
}
const char *
ssh_message_channel_request_open_destination(ssh_message m)
{
	return m->text;
}
int
ssh_message_channel_request_open_destination_port(ssh_message m)
{
	return m->number;
}
const char *
ssh_message_channel_request_open_originator(ssh_message m)
{
	return m->text;
}
const char *
ssh_message_global_request_address(ssh_message m)
{
	return m->text;
}
int
ssh_message_global_request_port(ssh_message m)
{
	return m->number % 3;
}
int
ssh_get_status(ssh_session s)
{
	(void)s;
	return (fake.blocked ? SSH_WRITE_PENDING : 0) | (fake.gone ? SSH_CLOSED_ERROR : 0);
}
int
ssh_get_poll_flags(ssh_session s)
{
	(void)s;
	return fake.blocked ? SSH_WRITE_PENDING : 0;
}
int
ssh_is_connected(ssh_session s)
{
	(void)s;
	return !fake.gone;
}
int
ssh_send_keepalive(ssh_session s)
{
	(void)s;
	pumps();
	return SSH_OK;
}
int
ssh_event_dopoll(ssh_event e, int ms)
{
	(void)e, (void)ms;
	return SSH_AGAIN;
}
const char *
ssh_get_error(void *of)
{
	(void)of;
	return "Socket error: reset";
}
int
ssh_get_error_code(void *of)
{
	(void)of;
	return SSH_FATAL;
}
int
ssh_finalize(void)
{
	return SSH_OK;
}

/* ---- one connection ---- */

static int
open_files(void)
{
	int n = 0;

	for (int fd = 3; fd < 200; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static void
begin_connection(void)
{
	struct conn *c = &fake.conn;
	struct err e;
	int pair[2];

	*c = (struct conn){.channels_max = 6, .proven = true, .user = "demo"};
	c->control = byte() % 4 == 0;
	c->ready_tail = &c->ready;
	c->stalled_tail = &c->stalled;
	c->piece = xnew(1, FLOW_PIECE_BYTES);
	c->fd = fake.fd = eventfd(0, EFD_CLOEXEC);
	CLAIM(loop_init(&c->loop, &e) == 0 && wire_pair(pair, &e) == 0);
	CLAIM(watch_add(&c->loop, &c->watch, c->fd, EPOLLIN, on_client, c, &e) == 0);
	CLAIM(wire_open(&fake.manager, pair[0], ROLE_MANAGER, ROLE_CONN, PHASE_OPEN, &e) == 0);
	CLAIM(wire_open(&c->manager, pair[1], ROLE_CONN, ROLE_MANAGER, PHASE_OPEN, &e) == 0 &&
	      manager_link_watch(c, &e) == 0);
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	const int before = open_files();
	struct conn *c = &fake.conn;
	struct err e;

	signal(SIGPIPE, SIG_IGN); /* as conn's main does */
	memset(&fake, 0, sizeof fake);
	fake.at = bytes;
	fake.end = bytes + (n < 4096 ? n : 4096);
	fake.manager.fd = fake.keeper.fd = -1;
	fake.now = time_now_ns();
	begin_connection();
	while (fake.at < fake.end && !c->ended) {
		something_happens();
		turn(c);
		if (!c->ended && byte() % 4 == 0)
			CLAIM(loop_turn(&c->loop, 0, &e) == 0);
	}
	wire_close(&fake.keeper); /* so that nobody waits for it to read */
	wire_close(&fake.manager);
	release(c);
	close(fake.fd);
	CLAIM(c->text_bytes == 0 && c->channels_n == 0 && open_files() == before);
	return 0;
}
