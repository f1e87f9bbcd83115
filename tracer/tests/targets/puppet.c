// Follows commands, one per line.
//
//   where      prints the address of `tick`
//   step N     calls `tick` N times and prints `stepped`
//   thread N   the same in a new thread
//   fork N     the same in a child process
//   count FILE from now on counts calls in FILE, just before each: the number of calls is known even
//              if the process is killed
//   go N       N threads call `tick` over and over
//   stop       stops them and prints how often they called
//   exec       executes this program again in this process
//   exit N     exits with status N
//   kill N     sends signal N to itself
//
// First prints `ready`. At the end of input it stops its threads and prints `done`. Aborts
// if `tick` returns a wrong value.
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_THREADS 64

static atomic_ulong uncounted;
static atomic_ulong *called = &uncounted;
static atomic_bool stopping;
static pthread_t threads[MAX_THREADS];
static int running;

__attribute__((noinline)) uint64_t tick(uint64_t value) {
    __asm__ volatile("" : : "r"(value) : "memory");
    return value + 1;
}

__attribute__((noinline)) uint64_t tock(uint64_t value) {
    __asm__ volatile("" : : "r"(value) : "memory");
    return value + 2;
}

static void say(const char *word) {
    puts(word);
    fflush(stdout);
}

static void call(uint64_t value) {
    atomic_fetch_add(called, 1);
    if (tick(value) != value + 1) abort();
}

static void *steps(void *count) {
    for (uint64_t i = 0; i < (uint64_t)count; i++) call(i);
    return NULL;
}

static void *forever(void *unused) {
    (void)unused;
    for (uint64_t i = 0; !atomic_load(&stopping); i++) {
        call(i);
        usleep(50);
    }
    return NULL;
}

static void stop(void) {
    atomic_store(&stopping, true);
    while (running > 0) pthread_join(threads[--running], NULL);
    atomic_store(&stopping, false);
}

int main(void) {
    char line[4096], word[16], rest[4096];
    say("ready");
    while (fgets(line, sizeof line, stdin)) {
        rest[0] = 0;
        if (sscanf(line, "%15s %4095s", word, rest) < 1) continue;
        unsigned long number = strtoul(rest, NULL, 10);
        if (!strcmp(word, "where")) {
            printf("%p\n", (void *)tick);
            fflush(stdout);
        } else if (!strcmp(word, "step")) {
            steps((void *)number);
            say("stepped");
        } else if (!strcmp(word, "thread")) {
            pthread_t thread;
            pthread_create(&thread, NULL, steps, (void *)number);
            pthread_join(thread, NULL);
            say("stepped");
        } else if (!strcmp(word, "fork")) {
            pid_t child = fork();
            if (child == 0) {
                steps((void *)number);
                _exit(0);
            }
            int status;
            if (waitpid(child, &status, 0) != child || status != 0) abort();
            say("stepped");
        } else if (!strcmp(word, "count")) {
            int file = open(rest, O_RDWR | O_CREAT, 0600);
            if (file < 0 || ftruncate(file, 4096) != 0) abort();
            void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
            if (page == MAP_FAILED) abort();
            called = page;
            say("counting");
        } else if (!strcmp(word, "go")) {
            for (unsigned long i = 0; i < number && running < MAX_THREADS; i++) {
                pthread_create(&threads[running++], NULL, forever, NULL);
            }
            say("going");
        } else if (!strcmp(word, "stop")) {
            stop();
            printf("%lu\n", atomic_load(called));
            fflush(stdout);
        } else if (!strcmp(word, "exec")) {
            execl("/proc/self/exe", "puppet", (char *)NULL);
            abort();
        } else if (!strcmp(word, "exit")) {
            exit((int)number);
        } else if (!strcmp(word, "kill")) {
            kill(getpid(), (int)number);
            pause();
        } else {
            abort();
        }
    }
    stop();
    say("done");
    return 0;
}
