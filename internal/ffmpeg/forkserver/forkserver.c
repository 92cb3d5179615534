/*
 * A fork server for ffmpeg, loaded into it with LD_PRELOAD.
 *
 * A dynamically linked ffmpeg has some two hundred libraries, and loading them
 * takes ten times as much CPU as making a JPEG of a key frame. Here they are
 * loaded once. What would have been main then waits on descriptor 3, a
 * SOCK_SEQPACKET socket, and forks a child for each job, which becomes the
 * ffmpeg of that job: it begins in the state just before main, has seen no
 * other job's bytes, and puts on a stricter seccomp filter first.
 *
 * From the master:   'F' struct sock_filter...   the filter of the children
 *                    'S'                        children get what a picture needs
 *                    'J' argument NUL ...        a job, with three descriptors
 *                                                for 0, 1 and 2
 * To the master, after each job: struct result.
 *
 * It does one job at a time; the master kills the process group when a job is
 * not wanted any more. It ends when the master closes its end.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { control = 3, max_args = 256, max_filter = 512 };

struct result {
	int32_t status; /* of wait4(2) */
	int32_t rss;    /* KiB */
	int64_t cpu;    /* microseconds */
};

typedef int (*main_t)(int, char **, char **);

static main_t program;
static char message[64 << 10];
static struct sock_filter filter[max_filter];
static struct sock_fprog restricted = { 0, filter };

/*
 * Most of the time that a fork takes is for copying the map of two hundred
 * libraries, or for leaving pieces of it out (MADV_DONTFORK), and many kernels
 * let nothing else run on that processor meanwhile. So those that no picture
 * needs are taken down, which nothing here calls. What they would have done when
 * a process forks or exits is left out, because they are not there.
 */
static const char *needed[] = {
	"ld-", "libaom", "libav", "libbz2", "libc.", "libcrypto", "libdav1d", "libdl.", "libdrm", "libgcc", "libgnutls", "liblzma", "libm.",
	"libmvec", "libpostproc", "libpthread", "libquadmath", "librt.", "libssl", "libstdc++", "libsw", "libva", "libvdpau", "libvpx", "libz.", "linux-", "weir-",
};
static pid_t (*split)(void) = fork; /* or what is like it without the handlers of libraries */
static int (*at_exit)(void (*)(int, void *), void *);

/* leave takes down a library that is not needed. */
static int leave(struct dl_phdr_info *lib, size_t size, void *unused)
{
	const char *name = strrchr(lib->dlpi_name, '/');
	uintptr_t from = UINTPTR_MAX, to = 0, page = sysconf(_SC_PAGESIZE);

	(void)size, (void)unused;
	name = name ? name + 1 : lib->dlpi_name;
	if (!*name) /* the program */
		return 0;
	for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
		if (!strncmp(name, needed[i], strlen(needed[i])))
			return 0;
	for (int i = 0; i < lib->dlpi_phnum; i++) {
		const ElfW(Phdr) *p = &lib->dlpi_phdr[i];
		uintptr_t begin = lib->dlpi_addr + p->p_vaddr;
		if (p->p_type == PT_TLS) /* new threads begin with a copy of it */
			return 0;
		if (p->p_type == PT_LOAD) {
			from = begin < from ? begin : from;
			to = begin + p->p_memsz > to ? begin + p->p_memsz : to;
		}
	}
	from &= ~(page - 1);
	if (from < to)
		munmap((void *)from, to - from);
	return 0;
}

/* quit ends a child without what libraries do at the end. */
static void quit(int status, void *unused)
{
	(void)unused;
	fflush(0);
	_exit(status);
}

/* slim keeps only what children need, where the C library can do it. */
static void slim(void)
{
	pid_t (*plain)(void) = dlsym(RTLD_DEFAULT, "_Fork");

	at_exit = dlsym(RTLD_DEFAULT, "on_exit");
	if (!plain || !at_exit)
		return;
	split = plain;
	dl_iterate_phdr(leave, 0);
}

/* receive reads a message and up to three descriptors. */
static ssize_t receive(int fds[3])
{
	char ancillary[CMSG_SPACE(3 * sizeof(int))];
	struct iovec iov = { message, sizeof message - 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = ancillary, .msg_controllen = sizeof ancillary };
	ssize_t n = recvmsg(control, &m, MSG_CMSG_CLOEXEC);
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);

	fds[0] = fds[1] = fds[2] = -1;
	if (c && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(3 * sizeof(int)))
		memcpy(fds, CMSG_DATA(c), 3 * sizeof(int));
	return n;
}

/* become turns a child into the ffmpeg of a job. */
static int become(pid_t parent, ssize_t n, int fds[3], char **envp)
{
	char *args[max_args + 1];
	int count = 0;

	if (prctl(PR_SET_PDEATHSIG, SIGKILL) || getppid() != parent) /* it is not inherited */
		_exit(126);
	for (char *p = message + 1; p < message + n && count < max_args; p += strlen(p) + 1)
		args[count++] = p;
	args[count] = 0;
	for (int i = 0; i < 3; i++)
		if (dup2(fds[i], i) < 0)
			_exit(126);
	if (syscall(SYS_close_range, 3, ~0U, 0)) /* Linux 5.9 */
		for (int fd = 3; fd < getdtablesize(); fd++)
			close(fd);
	if (restricted.len && syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &restricted))
		_exit(126);
	if (split != fork)
		at_exit(quit, 0);
	return program(count, args, envp);
}

/*
 * prepare does what would be the same in each job: encoders' libraries are asked
 * what they can do, and decoders make their tables. Those of other libraries
 * are left out: they start threads, which would not be there after a fork.
 */
static void prepare(void)
{
	static const char *decoders[] = { "h264", "hevc", "vp9" };
	const void *(*iterate)(void **) = dlsym(RTLD_DEFAULT, "av_codec_iterate");
	const void *(*find)(const char *) = dlsym(RTLD_DEFAULT, "avcodec_find_decoder_by_name");
	void *(*make)(const void *) = dlsym(RTLD_DEFAULT, "avcodec_alloc_context3");
	int (*begin)(void *, const void *, void **) = dlsym(RTLD_DEFAULT, "avcodec_open2");
	void (*end)(void **) = dlsym(RTLD_DEFAULT, "avcodec_free_context");
	void *first = 0;

	if (!iterate || !find || !make || !begin || !end)
		return;
	iterate(&first);
	for (size_t i = 0; i < sizeof decoders / sizeof *decoders; i++) {
		const void *codec = find(decoders[i]);
		void *context = codec ? make(codec) : 0;
		if (!context)
			continue;
		begin(context, codec, 0); /* whether it can is seen when it has to */
		end(&context);
	}
}

static int serve(int argc, char **argv, char **envp)
{
	int fds[3];
	ssize_t n;
	pid_t self = getpid();

	(void)argc, (void)argv;
	prepare();
	while ((n = receive(fds)) > 0) {
		message[n] = 0;
		if (message[0] == 'F' && (size_t)n - 1 <= sizeof filter) {
			memcpy(filter, message + 1, n - 1);
			restricted.len = (n - 1) / sizeof filter[0];
			continue;
		}
		if (message[0] == 'S') {
			slim();
			continue;
		}
		if (message[0] != 'J' || fds[2] < 0)
			_exit(126);
		pid_t child = split();
		if (child == 0)
			return become(self, n, fds, envp);
		struct result r = { 126 << 8, 0, 0 };
		struct rusage use;
		for (int i = 0; i < 3; i++)
			close(fds[i]);
		if (child > 0 && wait4(child, &r.status, 0, &use) == child) {
			r.rss = use.ru_maxrss;
			r.cpu = (use.ru_utime.tv_sec + use.ru_stime.tv_sec) * 1000000LL + use.ru_utime.tv_usec + use.ru_stime.tv_usec;
		}
		if (write(control, &r, sizeof r) < 0)
			_exit(0);
	}
	_exit(0);
}

/* The C library calls this to run main, once all libraries are loaded. */
int __libc_start_main(main_t m, int argc, char **argv, void (*init)(void), void (*fini)(void), void (*rtld_fini)(void), void *stack_end)
{
	int (*real)(main_t, int, char **, void (*)(void), void (*)(void), void (*)(void), void *) = dlsym(RTLD_NEXT, "__libc_start_main");

	program = m;
	return real(serve, argc, argv, init, fini, rtld_fini, stack_end);
}
