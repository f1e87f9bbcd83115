// Ten thousand functions, `many_0` to `many_9999`, each called so many times.
//
//   many ROUNDS
//
// Prints `ready`, waits for a line, makes the calls, prints `done TOTAL`, waits for the end of
// input. The assembler writes the functions: a compiler would take its time.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define COUNT 10000

#if defined(__x86_64__)
#define BODY " nopl 0(%rax,%rax,1)\n ret\n"
#else
#define BODY " nop\n ret\n"
#endif

__asm__(".altmacro\n"
        ".macro function number\n"
        ".text\n.globl many_\\number\n.type many_\\number, %function\n"
        "many_\\number:\n" BODY ".size many_\\number, . - many_\\number\n"
        ".section .data.rel.ro,\"aw\"\n.quad many_\\number\n"
        ".endm\n"
        ".section .data.rel.ro,\"aw\"\n.balign 8\n.globl functions\nfunctions:\n"
        ".set number, 0\n.rept 10000\n function %number\n .set number, number + 1\n.endr\n"
        ".text\n.noaltmacro\n");

extern void (*const functions[COUNT])(void);

int main(int argc, char **argv) {
    int rounds = argc > 1 ? atoi(argv[1]) : 1;
    char line[16];
    puts("ready");
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin)) return 1;
    for (int round = 0; round < rounds; round++) {
        for (int i = 0; i < COUNT; i++) functions[i]();
    }
    printf("done %d\n", rounds * COUNT);
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {}
    return 0;
}
