/* An ffmpeg that does what one might that a hostile frame has taken over. What
 * it shall do is on its standard input. It is linked dynamically, so that the
 * fork server can be loaded into it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

static char big[1 << 20];

static void *rest(void *unused)
{
	for (;;)
		sleep(1000);
	return unused;
}

int main(int argc, char **argv)
{
	char verb[64] = "";

	if (!strcmp(argv[argc - 1], "-version"))
		return puts("ffmpeg version 0-evil Copyright") < 0;
	if (!strcmp(argv[argc - 1], "-encoders") || !strcmp(argv[argc - 1], "-decoders"))
		return puts(" ------") < 0;
	if (read(0, verb, sizeof verb - 1) < 0)
		return 1;
	if (!strcmp(verb, "echo"))
		return puts("echo") < 0;
	if (!strcmp(verb, "hang"))
		for (signal(SIGTERM, SIG_IGN);;)
			pause();
	if (!strcmp(verb, "spin"))
		for (;;)
			;
	if (!strcmp(verb, "miss")) /* dies as a child of the fork server only */
		return getenv("LD_PRELOAD") ? *(volatile int *)8 : puts("alive") < 0;
	if (!strcmp(verb, "crash"))
		*(volatile int *)0 = 1;
	if (!strcmp(verb, "flood"))
		while (write(2, big, sizeof big) > 0)
			;
	if (!strcmp(verb, "gigabyte"))
		for (int i = 0; i < 1 << 10; i++)
			if (write(1, big, sizeof big) < 0)
				return 1;
	if (!strcmp(verb, "memory"))
		for (char *p; (p = malloc(sizeof big));)
			memset(p, 1, sizeof big);
	if (!strcmp(verb, "bomb")) {
		int n = 0;
		pid_t pid;

		while ((pid = fork()) > 0 && n < 4096)
			n++;
		for (; pid == 0;)
			pause();
		return printf("%d processes: %s\n", n, pid < 0 ? strerror(errno) : "and no end") < 0;
	}
	if (!strcmp(verb, "threads")) {
		int n = 1, err = 0;
		pthread_attr_t small;
		pthread_t t;

		pthread_attr_init(&small);
		pthread_attr_setstacksize(&small, 16 << 10);
		while (n < 1 << 14 && !(err = pthread_create(&t, &small, rest, 0)))
			n++;
		return printf("%d threads: %s\n", n, strerror(err)) < 0;
	}
	if (!strcmp(verb, "probe")) {
		struct rlimit files;
		cpu_set_t cpus;

		CPU_ZERO(&cpus);
		CPU_SET(0, &cpus);
		printf("fork %d\n", fork() < 0);
		printf("exec %d\n", execl("/bin/true", "true", (char *)0) < 0);
		printf("open %d\n", open(argv[0], O_RDONLY) < 0);
		printf("write %d\n", open("/tmp/weir-evil", O_WRONLY | O_CREAT, 0600) < 0);
		printf("socket %d\n", socket(AF_INET, SOCK_STREAM, 0) < 0);
		printf("kill %d\n", kill(getppid(), 0) < 0);
		printf("limits %d\n", prlimit(getppid(), RLIMIT_NOFILE, 0, &files) < 0);
		printf("own limits %d\n", prlimit(0, RLIMIT_NOFILE, 0, &files) < 0);
		printf("affinity %d\n", sched_setaffinity(getppid(), sizeof cpus, &cpus) < 0);
		printf("owner %d\n", fcntl(1, F_SETOWN, getppid()) < 0);
		printf("signal %d\n", fcntl(1, F_SETSIG, SIGKILL) < 0);
		printf("async %d\n", fcntl(1, F_SETFL, O_ASYNC) < 0);
		printf("blocking %d\n", fcntl(1, F_SETFL, 0) < 0);
		printf("death %d\n", prctl(PR_SET_PDEATHSIG, 0) < 0);
		printf("control %d\n", fcntl(3, F_GETFD) < 0); /* of the fork server */
		return 0;
	}
	return 3;
}
