// Calls a function whose first instruction is a 5-byte nop, and tells how long a call took.
//
//   hits CALLS
//
// Prints `ready`, waits for a line, calls, prints `CALLS NANOSECONDS`.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

void nop5(uint64_t value);
void nop1(uint64_t value);
void push(uint64_t value);
#define FUNCTION(name, code) \
    __asm__(".text\n.globl " #name "\n.type " #name ", @function\n" #name ":\n" code \
            "\n ret\n.size " #name ", . - " #name "\n.balign 64\n")
FUNCTION(nop5, ".byte 0x0f, 0x1f, 0x44, 0x00, 0x00");
FUNCTION(nop1, "nop");
FUNCTION(push, "push %rbp\n pop %rbp");

int main(int argc, char **argv) {
    uint64_t calls = argc > 1 ? strtoull(argv[1], NULL, 10) : 1000000;
    char line[16];
    puts("ready");
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin)) return 1;
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (uint64_t i = 0; i < calls; i++) nop5(i);
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("%llu %lld\n", (unsigned long long)calls,
           (end.tv_sec - begin.tv_sec) * 1000000000LL + end.tv_nsec - begin.tv_nsec);
    return 0;
}
