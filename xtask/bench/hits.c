// Calls one function many times, and tells how long a call took.
//
//   hits CALLS [nop5|text|back|both]
//
// Prints `ready`, waits for a line, calls, prints `CALLS NANOSECONDS`, waits for the end of its
// input. The nanoseconds are of CPU time: the tracer that writes needs a CPU, too. Each function begins
// with a 5-byte nop, the cheapest place for a probe. With `both`, two threads call `nop5`, on two CPUs if
// there are two.
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

// Takes a number.
void nop5(uint64_t value);
// Takes a string.
void text(const char *string);
// Gives its number back.
uint64_t back(uint64_t value);
#define FUNCTION(name, code) \
    __asm__(".text\n.balign 64\n.globl " #name "\n.type " #name ", @function\n" #name ":\n" \
            code "\n ret\n.size " #name ", . - " #name "\n")
#if defined(__x86_64__)
#define NOP5 ".byte 0x0f, 0x1f, 0x44, 0x00, 0x00"
FUNCTION(nop5, NOP5);
FUNCTION(text, NOP5);
FUNCTION(back, NOP5 "\n mov %rdi, %rax");
#else
// All instructions are of one length here, and the argument is already where results go.
FUNCTION(nop5, "nop");
FUNCTION(text, "nop");
FUNCTION(back, "nop");
#endif

// Written at the start, so its page is resident: 40 bytes and the terminator.
static char string[41];

static uint64_t calls;

// One of two threads, by its number.
static void *half(void *number) {
    cpu_set_t own;
    CPU_ZERO(&own);
    CPU_SET((size_t)number, &own);
    sched_setaffinity(0, sizeof own, &own);
    for (uint64_t i = 0; i < calls / 2; i++) nop5(i);
    return NULL;
}

static void both(void) {
    pthread_t threads[2];
    for (size_t i = 0; i < 2; i++) pthread_create(&threads[i], NULL, half, (void *)i);
    for (size_t i = 0; i < 2; i++) pthread_join(threads[i], NULL);
}

int main(int argc, char **argv) {
    calls = argc > 1 ? strtoull(argv[1], NULL, 10) : 1000000;
    const char *function = argc > 2 ? argv[2] : "nop5";
    uint64_t sum = 0;
    char line[16];
    memset(string, 'x', sizeof string - 1);
    puts("ready");
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin)) return 1;
    struct timespec begin, end;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &begin);
    if (!strcmp(function, "nop5")) {
        for (uint64_t i = 0; i < calls; i++) nop5(i);
    } else if (!strcmp(function, "text")) {
        for (uint64_t i = 0; i < calls; i++) text(string);
    } else if (!strcmp(function, "back")) {
        for (uint64_t i = 0; i < calls; i++) sum += back(i);
    } else if (!strcmp(function, "both")) {
        both();
    } else {
        return 2;
    }
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &end);
    printf("%llu %lld\n", (unsigned long long)calls,
           (end.tv_sec - begin.tv_sec) * 1000000000LL + end.tv_nsec - begin.tv_nsec);
    fflush(stdout);
    // The traced process stays, so that what its end costs is not measured.
    fgets(line, sizeof line, stdin);
    return sum == 1;
}
