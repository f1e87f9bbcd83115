// Calls functions from threads that outnumber the CPUs, from signal handlers that interrupt them, and with
// strings that have to be faulted in. Each call has the number of its stream, a number that rises by 1 within
// the stream, and a sum of the two.
//
//   ring CALLS
//
// Prints `ready`, waits for a line, lets each of five threads make CALLS calls, and prints the calls of each
// stream: `STREAM CALLS`. Streams from 0 are threads, from 10 the signal handlers on them, from 20 the strings.
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { BUSY = 5, SLEEPERS = 4, STREAMS = 24, PAGE = 4096 };

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

static unsigned long calls[STREAMS];
static unsigned long wanted;
static atomic_int running;
static __thread int own;

// More than fits into one slot of a ring.
__attribute__((noinline)) void number(unsigned long stream, unsigned long count, unsigned long sum) {
    __asm__ volatile("" : : "r"(stream), "r"(count), "r"(sum) : "memory");
}

// Fits into one.
__attribute__((noinline)) void pair(unsigned long stream, unsigned long count) {
    __asm__ volatile("" : : "r"(stream), "r"(count) : "memory");
}

__attribute__((noinline)) void text(unsigned long stream, unsigned long count, const char *string) {
    __asm__ volatile("" : : "r"(stream), "r"(count), "r"(string) : "memory");
}

static void call(int stream) {
    unsigned long count = calls[stream]++;
    if (count % 4)
        pair(stream, count);
    else
        number(stream, count, stream + count);
}

static void interrupted(int signal) {
    (void)signal;
    call(own + 10);
}

static void *busy(void *thread) {
    own = (int)(long)thread;
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR1};
    event.sigev_notify_thread_id = (int)syscall(SYS_gettid);
    timer_t timer;
    // Each at its own pace.
    struct itimerspec often = {{0, 150000 + 10000 * own}, {0, 150000}};
    if (timer_create(CLOCK_MONOTONIC, &event, &timer) || timer_settime(timer, 0, &often, NULL)) {
        perror("timer");
        exit(1);
    }
    while (calls[own] < wanted) call(own);
    timer_delete(timer);
    atomic_fetch_sub(&running, 1);
    return NULL;
}

static void *sleeper(void *thread) {
    int stream = 20 + (int)(long)thread;
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    FILE *file = tmpfile();
    // The string goes over the end of the first page.
    if (!file || ftruncate(fileno(file), 2 * PAGE)) exit(1);
    char *pages = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fileno(file), 0);
    if (pages == MAP_FAILED) exit(1);
    char *string = pages + PAGE - 4;
    do {
        unsigned long count = calls[stream]++;
        sprintf(string, "stream %d, call %lu", stream, count);
        madvise(pages, 2 * PAGE, MADV_DONTNEED);
        text(stream, count, string);
    } while (atomic_load(&running) > 0);
    return NULL;
}

int main(int argc, char **argv) {
    wanted = argc > 1 ? strtoul(argv[1], NULL, 10) : 1000;
    atomic_store(&running, BUSY);
    struct sigaction action = {.sa_handler = interrupted, .sa_flags = SA_RESTART};
    sigaction(SIGUSR1, &action, NULL);
    puts("ready");
    fflush(stdout);
    char line[64];
    if (!fgets(line, sizeof line, stdin)) return 1;
    pthread_t threads[BUSY + SLEEPERS];
    for (long i = 0; i < BUSY; i++) pthread_create(&threads[i], NULL, busy, (void *)i);
    for (long i = 0; i < SLEEPERS; i++) pthread_create(&threads[BUSY + i], NULL, sleeper, (void *)i);
    for (int i = 0; i < BUSY + SLEEPERS; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < STREAMS; i++)
        if (calls[i]) printf("%d %lu\n", i, calls[i]);
    puts("end");
    fflush(stdout);
    return 0;
}
