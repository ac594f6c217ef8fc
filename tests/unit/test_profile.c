/* The seccomp program, tried by making the calls in a process that has loaded it. No root needed: a
 * process may always give up more. */
#include "server/manager/profile.c"

#include <fcntl.h>
#include <linux/keyctl.h>
#include <linux/vm_sockets.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <cmocka.h>

static struct sock_filter code[BPF_MAXINSNS];
static unsigned short code_n;

static int
setup(void **state)
{
	struct err err;
	(void)state;
	auto_close int fd = profile_compile(PROFILE_INTERNET | PROFILE_CLONE3, &err);
	if (fd < 0) {
		fprintf(stderr, "%s\n", err.why);
		return -1;
	}
	const ssize_t n = pread(fd, code, sizeof code, 0);
	code_n = (unsigned short)(n / (ssize_t)sizeof *code);
	return n <= 0;
}

/* Runs `attempt` under the program: the errno it fails with, 0 when it does not. */
static int
under_profile(long (*attempt)(void))
{
	int status = -1;
	const pid_t pid = fork();

	if (pid == 0) {
		const struct sock_fprog program = {.len = code_n, .filter = code};
		if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
		    syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) < 0)
			_exit(254);
		errno = 0;
		const long result = attempt();
		_exit(result < 0 ? errno : 0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

#define ATTEMPT(name, expression)                                                                  \
	static long name(void)                                                                     \
	{                                                                                          \
		return (expression);                                                               \
	}

ATTEMPT(try_clone_userns, syscall(SYS_clone, CLONE_NEWUSER | 17, 0, 0, 0, 0))
ATTEMPT(try_clone_netns, syscall(SYS_clone, CLONE_NEWNET | CLONE_NEWUSER | 17, 0, 0, 0, 0))
ATTEMPT(try_unshare_userns, syscall(SYS_unshare, CLONE_NEWUSER))
ATTEMPT(try_unshare_high_bits, syscall(SYS_unshare, 0x500000000ul | CLONE_NEWUSER))
ATTEMPT(try_unshare_files, syscall(SYS_unshare, CLONE_FILES))
ATTEMPT(try_setns, syscall(SYS_setns, -1, 0))
ATTEMPT(try_sti, syscall(SYS_ioctl, -1, TIOCSTI, ""))
ATTEMPT(try_sti_high_bits, syscall(SYS_ioctl, -1, 0x100000000ul | TIOCSTI, ""))
ATTEMPT(try_linux, syscall(SYS_ioctl, -1, TIOCLINUX, ""))
ATTEMPT(try_other_ioctl, syscall(SYS_ioctl, -1, TIOCGWINSZ, 0))
ATTEMPT(try_vsock, syscall(SYS_socket, AF_VSOCK, SOCK_STREAM, 0))
ATTEMPT(try_vsock_high_bits, syscall(SYS_socket, 0x100000000ul | AF_VSOCK, SOCK_STREAM, 0))
ATTEMPT(try_alg, syscall(SYS_socket, AF_ALG, SOCK_SEQPACKET, 0))
ATTEMPT(try_packet, syscall(SYS_socket, AF_PACKET, SOCK_RAW, 0))
ATTEMPT(try_inet6_or_none, syscall(SYS_socket, AF_INET, SOCK_STREAM, 0))
ATTEMPT(try_unix, syscall(SYS_socket, AF_UNIX, SOCK_STREAM, 0))
ATTEMPT(try_keyctl, syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0))
ATTEMPT(try_add_key, syscall(SYS_add_key, "user", "x", "y", 1, -3))
ATTEMPT(try_bpf, syscall(SYS_bpf, 0, 0, 0))
ATTEMPT(try_perf, syscall(SYS_perf_event_open, 0, 0, -1, -1, 0))
ATTEMPT(try_userfaultfd, syscall(SYS_userfaultfd, 0))
ATTEMPT(try_mount, syscall(SYS_mount, "a", "/b", "tmpfs", 0, 0))
ATTEMPT(try_open_tree, syscall(SYS_open_tree, AT_FDCWD, "/", 0))
ATTEMPT(try_fsopen, syscall(SYS_fsopen, "tmpfs", 0))
ATTEMPT(try_mount_setattr, syscall(SYS_mount_setattr, -1, "", 0, 0, 0))
ATTEMPT(try_by_handle, syscall(SYS_open_by_handle_at, -1, 0, 0))
ATTEMPT(try_name_to_handle, syscall(SYS_name_to_handle_at, AT_FDCWD, "/", 0, 0, 0))
ATTEMPT(try_kexec, syscall(SYS_kexec_load, 0, 0, 0, 0))
ATTEMPT(try_uring, syscall(SYS_io_uring_setup, 1, 0))
ATTEMPT(try_unknown, syscall(999))
ATTEMPT(try_personality_linux, syscall(SYS_personality, 0))
ATTEMPT(try_personality_asks, syscall(SYS_personality, 0xffffffffu))
ATTEMPT(try_personality_svr4, syscall(SYS_personality, 0x0001))
ATTEMPT(try_traceme, ptrace(PTRACE_TRACEME, 0, 0, 0))
ATTEMPT(try_clone3_size, syscall(SYS_clone3, 0, 0))
ATTEMPT(try_fork, syscall(SYS_clone, 17, 0, 0, 0, 0))

static void
test_what_could_reach_beyond_a_session_is_refused(void **state)
{
	(void)state;
	long (*const refused_calls[])(void) = {
	    try_clone_userns, try_clone_netns,   try_unshare_userns, try_unshare_high_bits,
	    try_setns,        try_keyctl,        try_add_key,        try_bpf,
	    try_perf,         try_userfaultfd,   try_mount,          try_open_tree,
	    try_fsopen,       try_mount_setattr, try_by_handle,      try_name_to_handle,
	    try_kexec,        try_sti,           try_sti_high_bits,  try_linux,
	};
	for (size_t i = 0; i < sizeof refused_calls / sizeof *refused_calls; i++)
		if (under_profile(refused_calls[i]) != EPERM)
			fail_msg("call %zu: errno %d", i, under_profile(refused_calls[i]));
}

static void
test_what_is_not_listed_answers_as_an_older_kernel(void **state)
{
	(void)state;
	assert_int_equal(under_profile(try_uring), ENOSYS);
	assert_int_equal(under_profile(try_unknown), ENOSYS);
	assert_int_equal(under_profile(try_vsock), ENOSYS);
	assert_int_equal(under_profile(try_vsock_high_bits), ENOSYS);
	assert_int_equal(under_profile(try_alg), ENOSYS);
	assert_int_equal(under_profile(try_packet), ENOSYS);
	assert_int_equal(under_profile(try_personality_svr4), ENOSYS);
}

static void
test_what_programs_need_is_allowed(void **state)
{
	(void)state;
	assert_int_equal(under_profile(try_other_ioctl), EBADF); /* it came to the kernel */
	assert_int_equal(under_profile(try_unshare_files), 0);
	assert_int_equal(under_profile(try_inet6_or_none), 0);
	assert_int_equal(under_profile(try_unix), 0);
	assert_int_equal(under_profile(try_personality_linux), 0);
	assert_int_equal(under_profile(try_personality_asks), 0);
	assert_int_equal(under_profile(try_traceme), 0);
	assert_int_equal(under_profile(try_clone3_size), EINVAL); /* it came to the kernel */
	assert_int_equal(under_profile(try_fork), 0);
}

#if defined(__x86_64__)
/* A call by the 32 bit gate, which any 64 bit process may use. */
static long
call_32(unsigned number, unsigned a, unsigned b, unsigned c)
{
	int result;
	__asm__ volatile("int $0x80"
			 : "=a"(result)
			 : "a"(number), "b"(a), "c"(b), "d"(c)
			 : "memory", "cc", "r8", "r9", "r10", "r11");
	if (result < 0)
		errno = -result;
	return result < 0 ? -1 : result;
}

static unsigned
low_words(unsigned a, unsigned b, unsigned c)
{
	unsigned *at = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	if (at == MAP_FAILED)
		return 0;
	at[0] = a;
	at[1] = b;
	at[2] = c;
	return (unsigned)(uintptr_t)at;
}

ATTEMPT(try_32_getpid, call_32(20, 0, 0, 0))
ATTEMPT(try_32_sti, call_32(54, ~0u, TIOCSTI, 0))
ATTEMPT(try_32_vsock, call_32(359, AF_VSOCK, SOCK_STREAM, 0))
ATTEMPT(try_32_unix, call_32(359, AF_UNIX, SOCK_STREAM, 0))
ATTEMPT(try_32_socketcall_vsock, call_32(102, 1, low_words(AF_VSOCK, SOCK_STREAM, 0), 0))
ATTEMPT(try_32_socketcall_listen, call_32(102, 4, low_words(~0u, 1, 0), 0))
ATTEMPT(try_32_mount, call_32(21, 0, 0, 0))
ATTEMPT(try_32_keyctl, call_32(288, 0, 0, 0))
ATTEMPT(try_32_userns, call_32(310, CLONE_NEWUSER, 0, 0))
ATTEMPT(try_x32_getpid, syscall(0x40000000 | 39))

static void
test_the_32_bit_gate_has_the_same_walls(void **state)
{
	(void)state;
	if (call_32(20, 0, 0, 0) < 0)
		skip(); /* this kernel has no 32 bit calls */
	assert_int_equal(under_profile(try_32_getpid), 0);
	assert_int_equal(under_profile(try_32_unix), 0);
	assert_int_equal(under_profile(try_32_sti), EPERM);
	assert_int_equal(under_profile(try_32_vsock), ENOSYS);
	assert_int_equal(under_profile(try_32_socketcall_vsock), ENOSYS);
	assert_int_equal(under_profile(try_32_socketcall_listen), EBADF);
	assert_int_equal(under_profile(try_32_mount), EPERM);
	assert_int_equal(under_profile(try_32_keyctl), EPERM);
	assert_int_equal(under_profile(try_32_userns), EPERM);
}

static void
test_x32_is_refused(void **state)
{
	(void)state;
	assert_int_equal(under_profile(try_x32_getpid),
			 EPERM); /* ENOSYS would be the kernel's own */
}
#endif

static void
test_a_nested_session_may_make_namespaces_and_mounts_and_nothing_else_more(void **state)
{
	struct err err;
	long (*const allowed_calls[])(void) = {try_clone_userns, try_clone_netns, try_unshare_userns,
					       try_unshare_high_bits, try_setns, try_mount};
	long (*const refused_calls[])(void) = {
	    try_keyctl,        try_add_key,   try_bpf,	    try_perf,	try_userfaultfd,
	    try_open_tree,     try_fsopen,    try_mount_setattr, try_by_handle, try_name_to_handle,
	    try_kexec,	       try_sti,	      try_vsock,
	};

	(void)state;
	auto_close int fd = profile_compile(PROFILE_INTERNET | PROFILE_CLONE3 | PROFILE_NESTED, &err);
	assert_true(fd >= 0);
	code_n = (unsigned short)(pread(fd, code, sizeof code, 0) / (ssize_t)sizeof *code);
	for (size_t i = 0; i < sizeof allowed_calls / sizeof *allowed_calls; i++) {
		/* the kernel's own answers, to a caller without rights and to bad arguments */
		const int got = under_profile(allowed_calls[i]);
		if (got == EPERM || got == ENOSYS)
			fail_msg("call %zu: errno %d", i, got);
	}
	for (size_t i = 0; i < sizeof refused_calls / sizeof *refused_calls; i++) {
		const int got = under_profile(refused_calls[i]);
		if (got != EPERM && got != EAFNOSUPPORT && got != ENOSYS)
			fail_msg("call %zu: errno %d", i, got);
	}
	assert_int_equal(setup(NULL), 0);
}

static void
test_the_program_is_sealed_and_read_only(void **state)
{
	struct err err;
	(void)state;
	auto_close int fd = profile_compile(PROFILE_INTERNET | PROFILE_CLONE3, &err);
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, "x", 1, 0), -1);
	assert_int_equal(ftruncate(fd, 0), -1);
	assert_true(fcntl(fd, F_GET_SEALS) & F_SEAL_SEAL);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_could_reach_beyond_a_session_is_refused),
		cmocka_unit_test(test_what_is_not_listed_answers_as_an_older_kernel),
		cmocka_unit_test(test_what_programs_need_is_allowed),
#if defined(__x86_64__)
		cmocka_unit_test(test_the_32_bit_gate_has_the_same_walls),
		cmocka_unit_test(test_x32_is_refused),
#endif
		cmocka_unit_test(test_a_nested_session_may_make_namespaces_and_mounts_and_nothing_else_more),
		cmocka_unit_test(test_the_program_is_sealed_and_read_only),
	};
	return cmocka_run_group_tests(tests, setup, NULL);
}
