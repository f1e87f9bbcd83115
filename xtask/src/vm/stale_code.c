// Cross-modifying code: one thread changes one byte of a function and then calls it, another calls it
// all the time. The one that changed it must see its own change: it serialises in between.
//
//   cc -O2 -pthread stale_code.c && ./a.out SECONDS
//
// Finds machines, above all emulated ones, that go on executing what is not there any more: see
// docs/kernels.md. No other changes the byte, so a single difference is wrong.
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
static atomic_bool stop;
static int (*volatile code)(void);
static void *caller(void *unused) {
    unsigned long n = 0;
    while (!atomic_load(&stop)) n += code();
    return (void *)n + ((long)unused & 0);
}
static void serialise(void) {
    unsigned a = 0, b, c = 0, d;
    __asm__ volatile("mfence; cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d) : : "memory");
}
int main(int argc, char **argv) {
    int fd = memfd_create("code", 0);
    if (ftruncate(fd, 4096)) return 1;
    volatile uint8_t *w = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    uint8_t *x = mmap(0, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    const uint8_t function[] = {0xb8, 0, 0, 0, 0, 0xc3}; // mov $0, %eax; ret
    memcpy((void *)w, function, sizeof function);
    code = (int (*)(void))x;
    pthread_t thread;
    pthread_create(&thread, 0, caller, 0);
    unsigned long changes = 0, stale = 0, stuck = 0;
    time_t end = time(0) + (argc > 1 ? atoi(argv[1]) : 10);
    for (uint8_t k = 1; changes % 256 || time(0) < end; k++, changes++) {
        w[1] = k;
        serialise();
        if (code() != k) {
            stale++;
            for (int i = 0; i < 1000; i++) { serialise(); if (code() == k) break; if (i == 999) stuck++; }
        }
        if (changes % 64 == 0) usleep(1);
    }
    atomic_store(&stop, 1);
    pthread_join(thread, 0);
    printf("RESULT %lu changes, %lu not seen at once by who made them, %lu of them not in 1000 calls\n", changes, stale, stuck);
    return 0;
}
