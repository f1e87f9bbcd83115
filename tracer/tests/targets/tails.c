// Functions that end in a jump to another function, or to themselves, whose returns are traced.
// Compile with -O2 -foptimize-sibling-calls.
//
//   tails CALLS DEPTH
//
// Prints `ready`, waits for a line, makes the calls, prints `done`, waits for the end of input.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "tails.c:%d: wrong: %s\n", __LINE__, #condition); \
            abort(); \
        } \
    } while (0)

static void *volatile returns_to;

__attribute__((noinline)) uint64_t tail_end(uint64_t value) {
    returns_to = __builtin_return_address(0);
    return value * 2;
}

__attribute__((noinline)) uint64_t tail_middle(uint64_t value) { return tail_end(value + 1); }

__attribute__((noinline)) uint64_t tail_start(uint64_t value) { return tail_middle(value + 1); }

// Jumps to its own first instruction, `depth` times.
uint64_t self_tail(uint64_t depth);
#ifdef __x86_64__
__asm__(".text\n.globl self_tail\n.type self_tail, @function\nself_tail:\n"
        " nopl 0(%rax,%rax,1)\n test %rdi, %rdi\n je 1f\n dec %rdi\n jmp self_tail\n"
        "1: mov $7, %eax\n ret\n.size self_tail, . - self_tail\n");
#elif defined(__aarch64__)
__asm__(".text\n.globl self_tail\n.type self_tail, %function\nself_tail:\n"
        " nop\n cbz x0, 1f\n sub x0, x0, #1\n b self_tail\n"
        "1: mov x0, #7\n ret\n.size self_tail, . - self_tail\n");
#endif

int main(int argc, char **argv) {
    uint64_t calls = argc > 1 ? strtoul(argv[1], NULL, 10) : 1;
    uint64_t depth = argc > 2 ? strtoul(argv[2], NULL, 10) : 10;
    char line[16];
    // Untraced, so that the return address is the real one: a call would return into its caller's body.
    CHECK(tail_start(1) == 6);
    uintptr_t caller = (uintptr_t)returns_to;
    CHECK(caller - (uintptr_t)tail_start > 64 && caller - (uintptr_t)tail_middle > 64);
    puts("ready");
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin)) return 1;
    for (uint64_t i = 0; i < calls; i++) CHECK(tail_start(i) == i * 2 + 4);
    CHECK(self_tail(depth) == 7);
    CHECK(tail_end(5) == 10);
    puts("done");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {}
    return 0;
}
