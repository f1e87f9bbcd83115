// Calls functions without pause, or at a given rate, and counts the calls.
//
//   load THREADS one|push|many [CALLS_A_MS]
//
//   one    calls `hot`, whose first instruction is the cheapest to probe
//   push   calls `warm`, whose first instruction is emulated
//   many   calls fn_0000 … fn_9999 in turn
//   with CALLS_A_MS each thread makes that many calls, sleeps for the rest of the millisecond, and
//   catches up if it has slept too long
//
// Prints `ready`. `go` starts the threads, `mark` prints the calls and the CPU nanoseconds of all
// threads so far, `stop` ends them (`many` after a whole round) and prints the same. `call N` makes
// N more calls and prints `called`. Calls add up over all commands.
#define _GNU_SOURCE
#define main functions_main
#include "functions.c"
#undef main
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#define MAX_THREADS 64
#define FUNCTIONS (sizeof functions / sizeof *functions)

void hot(void);
void warm(void);
#ifdef __x86_64__
__asm__(".text\n.globl hot\n.type hot, @function\nhot:\n"
        ".byte 0x0f, 0x1f, 0x44, 0x00, 0x00\n ret\n.size hot, . - hot\n"
        ".globl warm\n.type warm, @function\nwarm:\n push %rbx\n pop %rbx\n ret\n.size warm, . - warm\n");
#else
__attribute__((noinline)) void hot(void) { __asm__ volatile("nop" ::: "memory"); }
__attribute__((noinline)) void warm(void) { __asm__ volatile("nop" ::: "memory"); }
#endif

struct thread {
    pthread_t id;
    clockid_t clock;
    _Atomic uint64_t calls;
    _Atomic uint64_t cpu_ns;
} __attribute__((aligned(128)));

static struct thread threads[MAX_THREADS];
static atomic_bool stopping;
static const char *mode;
static uint64_t calls_a_ms;

static uint64_t ns_of(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

// One call, or the next one of a round.
static void call(uint64_t number) {
    switch (mode[0]) {
    case 'o': hot(); break;
    case 'p': warm(); break;
    default: functions[number % FUNCTIONS]((int)number); break;
    }
}

static void *work(void *of) {
    struct thread *self = of;
    uint64_t calls = atomic_load(&self->calls), first = calls, began = ns_of(CLOCK_MONOTONIC);
    while (!atomic_load_explicit(&stopping, memory_order_relaxed) ||
           (mode[0] == 'm' && calls % FUNCTIONS != 0)) {
        if (calls_a_ms) {
            uint64_t due = (ns_of(CLOCK_MONOTONIC) - began) / 1000000 * calls_a_ms;
            if (calls - first >= due && !atomic_load(&stopping)) {
                struct timespec ms = {0, 500000};
                nanosleep(&ms, NULL);
                continue;
            }
        }
        call(calls++);
        atomic_store_explicit(&self->calls, calls, memory_order_relaxed);
    }
    atomic_store(&self->cpu_ns, ns_of(CLOCK_THREAD_CPUTIME_ID));
    return NULL;
}

int main(int argc, char **argv) {
    int count = argc > 1 ? atoi(argv[1]) : 1;
    mode = argc > 2 ? argv[2] : "one";
    calls_a_ms = argc > 3 ? strtoull(argv[3], NULL, 10) : 0;
    char line[64];
    uint64_t more = 0;
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        if (!strncmp(line, "go", 2)) {
            atomic_store(&stopping, 0);
            for (int i = 0; i < count; i++) {
                pthread_create(&threads[i].id, NULL, work, &threads[i]);
                pthread_getcpuclockid(threads[i].id, &threads[i].clock);
            }
            continue;
        }
        if (!strncmp(line, "call ", 5)) {
            for (uint64_t left = strtoull(line + 5, NULL, 10); left; left--) call(more++);
            puts("called");
            fflush(stdout);
            continue;
        }
        int stop = !strncmp(line, "stop", 4);
        if (stop) {
            atomic_store(&stopping, 1);
            for (int i = 0; i < count; i++) pthread_join(threads[i].id, NULL);
        }
        uint64_t calls = more, cpu_ns = 0;
        for (int i = 0; i < count; i++) {
            calls += atomic_load(&threads[i].calls);
            cpu_ns += stop ? atomic_load(&threads[i].cpu_ns) : ns_of(threads[i].clock);
        }
        printf("%lu %lu\n", calls, cpu_ns);
        fflush(stdout);
    }
    return 0;
}
