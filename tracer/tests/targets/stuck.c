// A task that hangs on a page which nobody serves, until it is told to.
//
//   stuck
//
// Prints `ready`, then obeys the lines that it is sent and answers each:
//   hang      a thread `sleeper` passes a page that userfaultfd has   → `hanging`, once it waits
//   calls N   passes resident memory N times to each function         → `called`
//   load N    N threads pass resident memory to `same` without pause  → `loading`
//   stop      ends them                                               → how often they called
//   cold      passes another page of that kind                        → `passed`
//   serve     serves both pages, and waits for the thread             → `served`
// and ends with its input. It runs on one CPU only, so that the calls come where the thread hangs.
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PAGE = 4096, MAX_THREADS = 16 };

static char *unserved;
static char resident[PAGE] = "resident";
static atomic_bool stopping;

__attribute__((noinline)) void same(const char *text) { __asm__ volatile("" : : "r"(text) : "memory"); }
__attribute__((noinline)) void other(const char *text) { __asm__ volatile("" : : "r"(text) : "memory"); }

static void check(int ok, const char *what) {
    if (ok) return;
    perror(what);
    exit(1);
}

static void answer(const char *text) {
    puts(text);
    fflush(stdout);
}

static void *sleep_in(void *unused) {
    (void)unused;
    prctl(PR_SET_NAME, "sleeper");
    same(unserved);
    return NULL;
}

static void *load(void *calls) {
    while (!atomic_load(&stopping)) {
        same(resident);
        (*(unsigned long *)calls)++;
    }
    return NULL;
}

// The descriptor through which the pages of `unserved` can be served.
static int take_over_pages(void) {
    int memory = memfd_create("slow-storage", 0);
    check(memory >= 0 && ftruncate(memory, 2 * PAGE) == 0, "memfd");
    unserved = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    check(unserved != MAP_FAILED, "mmap");
    // poll() works only on one that does not block.
    int descriptor = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    check(descriptor >= 0, "userfaultfd");
    struct uffdio_api api = {.api = UFFD_API};
    check(ioctl(descriptor, UFFDIO_API, &api) == 0, "UFFDIO_API");
    struct uffdio_register pages = {
        .range = {.start = (unsigned long)unserved, .len = 2 * PAGE},
        .mode = UFFDIO_REGISTER_MODE_MISSING,
    };
    check(ioctl(descriptor, UFFDIO_REGISTER, &pages) == 0, "UFFDIO_REGISTER");
    return descriptor;
}

static void stay_here(void) {
    cpu_set_t here;
    CPU_ZERO(&here);
    CPU_SET(sched_getcpu(), &here);
    check(sched_setaffinity(0, sizeof here, &here) == 0, "sched_setaffinity");
}

int main(void) {
    stay_here();
    int descriptor = take_over_pages();
    char line[64];
    pthread_t sleeper, threads[MAX_THREADS];
    unsigned long called[MAX_THREADS] = {0};
    int sleeps = 0, calls, running = 0;
    answer("ready");
    while (fgets(line, sizeof line, stdin)) {
        if (strcmp(line, "hang\n") == 0) {
            sleeps = 1;
            check(pthread_create(&sleeper, NULL, sleep_in, NULL) == 0, "pthread_create");
            struct pollfd fault = {.fd = descriptor, .events = POLLIN};
            check(poll(&fault, 1, -1) == 1 && fault.revents == POLLIN, "poll");
            answer("hanging");
        } else if (sscanf(line, "calls %d", &calls) == 1) {
            for (int i = 0; i < calls; i++) {
                same(resident);
                other(resident);
            }
            answer("called");
        } else if (sscanf(line, "load %d", &calls) == 1) {
            check(calls <= MAX_THREADS, "load");
            for (running = 0; running < calls; running++) {
                called[running] = 0;
                int error = pthread_create(&threads[running], NULL, load, &called[running]);
                check(error == 0, "pthread_create");
            }
            answer("loading");
        } else if (strcmp(line, "stop\n") == 0) {
            unsigned long sum = 0;
            atomic_store(&stopping, 1);
            while (running > 0) {
                pthread_join(threads[--running], NULL);
                sum += called[running];
            }
            atomic_store(&stopping, 0);
            printf("%lu\n", sum);
            fflush(stdout);
        } else if (strcmp(line, "cold\n") == 0) {
            same(unserved + PAGE);
            answer("passed");
        } else if (strcmp(line, "serve\n") == 0) {
            char pages[2 * PAGE] __attribute__((aligned(4096))) = {0};
            strcpy(pages, "served at last");
            strcpy(pages + PAGE, "served as well");
            struct uffdio_copy copy = {
                .dst = (unsigned long)unserved, .src = (unsigned long)pages, .len = 2 * PAGE};
            check(ioctl(descriptor, UFFDIO_COPY, &copy) == 0, "UFFDIO_COPY");
            if (sleeps) pthread_join(sleeper, NULL);
            answer("served");
        }
    }
    return 0;
}
