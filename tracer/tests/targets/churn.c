// A thousand functions, called without pause, each result checked.
//
//   churn THREADS
//
// Prints `ready`, calls until the end of input, prints `CALLS WRONG`. The functions begin with
// instructions that the kernel runs in different ways under a breakpoint. It refuses the
// first of them, `refused`.
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define COUNT 1000

#if defined(__x86_64__)
// A 5-byte nop, a push, a nop that is stepped over (endbr64), and a move: replaced by a call,
// emulated, and twice executed out of line.
#define BODY                                                                     \
    ".if \\number % 4 == 0\n .byte 0x0f,0x1f,0x44,0,0\n lea \\number(%rdi), %rax\n" \
    ".elseif \\number % 4 == 1\n push %rbx\n lea \\number(%rdi), %rax\n pop %rbx\n"  \
    ".elseif \\number % 4 == 2\n endbr64\n lea \\number(%rdi), %rax\n"               \
    ".else\n mov %rdi, %rax\n add $\\number, %rax\n"                                 \
    ".endif\n ret\n"
#define REFUSED " lock incl (%rdi)\n ret\n"
#else
#define BODY " add x0, x0, #\\number\n ret\n"
#define REFUSED " ldxr w1, [x0]\n ret\n"
#endif

__asm__(".altmacro\n"
        ".macro function number\n"
        ".text\n.globl churn_\\number\n.type churn_\\number, %function\n"
        "churn_\\number:\n" BODY ".size churn_\\number, . - churn_\\number\n"
        ".section .data.rel.ro,\"aw\"\n.quad churn_\\number\n"
        ".endm\n"
        ".text\n.globl refused\n.type refused, %function\nrefused:\n" REFUSED
        ".size refused, . - refused\n"
        ".section .data.rel.ro,\"aw\"\n.balign 8\n.globl functions\nfunctions:\n"
        ".set number, 0\n.rept 1000\n function %number\n .set number, number + 1\n.endr\n"
        ".text\n.noaltmacro\n");

extern uint64_t (*const functions[COUNT])(uint64_t);

static atomic_bool stopping;
static atomic_ulong calls, wrong;

static void *work(void *unused) {
    (void)unused;
    unsigned long made = 0, bad = 0;
    while (!atomic_load(&stopping)) {
        for (uint64_t i = 0; i < COUNT; i++) bad += functions[i](made) != made + i;
        made += COUNT;
    }
    atomic_fetch_add(&calls, made);
    atomic_fetch_add(&wrong, bad);
    return NULL;
}

int main(int argc, char **argv) {
    int threads = argc > 1 ? atoi(argv[1]) : 1;
    char line[16];
    pthread_t ids[64];
    for (int i = 0; i < threads; i++) pthread_create(&ids[i], NULL, work, NULL);
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {}
    atomic_store(&stopping, 1);
    for (int i = 0; i < threads; i++) pthread_join(ids[i], NULL);
    printf("%lu %lu\n", atomic_load(&calls), atomic_load(&wrong));
    return 0;
}
