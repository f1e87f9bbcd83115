// Dies in several ways.
//
//   deaths HOW         at once
//   deaths HOW wait    after a line on its standard input; prints `ready` before it waits

#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

__attribute__((noinline, aligned(64))) int copied(int n) {
    __asm__ volatile("");
    return n + 1;
}

__attribute__((noinline)) int crash(int n) {
    __asm__ volatile("");
    return *(volatile int *)(intptr_t)n;
}

__attribute__((noinline)) int plain(int n) {
    __asm__ volatile("");
    return n * 2;
}

// Runs a copy of the code in anonymous memory, at the same place of its page.
static int run_copy(void) {
    size_t page = 4096;
    uintptr_t start = (uintptr_t)copied & ~(page - 1);
    char *copy = mmap(NULL, page, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (copy == MAP_FAILED) return 1;
    memcpy(copy, (void *)start, page);
    int (*moved)(int) = (int (*)(int))(copy + ((uintptr_t)copied - start));
    return moved(1);
}

// Ends like a program with a crash reporter: reports, then lets the signal do what it would have done.
static void report(int number) {
    if (write(2, "reported\n", 9) < 0) _exit(1);
    signal(number, SIG_DFL);
    raise(number);
}

int main(int argc, char **argv) {
    const char *how = argc > 1 ? argv[1] : "";
    if (argc > 2) {
        puts("ready");
        fflush(stdout);
        getchar();
    }
    int sum = plain(1);
    if (strcmp(how, "copied") == 0) sum += run_copy();
    if (strcmp(how, "crash") == 0) sum += crash(0);
    if (strcmp(how, "handled") == 0) {
        signal(SIGSEGV, report);
        sum += crash(0);
    }
    #ifdef __x86_64__
    if (strcmp(how, "breakpoint") == 0) __asm__ volatile("int3");
#endif
    if (strcmp(how, "abort") == 0) abort();
    if (strcmp(how, "killed") == 0) raise(SIGKILL);
    printf("%d\n", sum);
    return 0;
}
