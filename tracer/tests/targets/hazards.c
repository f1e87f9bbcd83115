// Code that kernels break, or would break if faultline let them.
#include <stdio.h>

// Go's linker leaves this section in each of its programs; that alone makes this program look like one.
#ifdef LIKE_GO
__attribute__((section(".go.buildinfo"), used)) static const char go[] = "\xff Go buildinf:";
#endif

#ifdef __x86_64__
// Keeps its argument below its stack pointer, with a five-byte nop between.
__asm__(".text\n.balign 16\n.globl leaf\n.type leaf, @function\nleaf:\n"
        " mov %rdi, -8(%rsp)\n .byte 0x0f, 0x1f, 0x44, 0x00, 0x00\n mov -8(%rsp), %rax\n ret\n"
        ".size leaf, . - leaf\n");
long leaf(long n);
#else
long leaf(long n) { return n; }
#endif

int main(void) {
    int wrong = 0;
    for (long n = 0; n < 200; n++)
        wrong += leaf(n) != n;
    fprintf(stderr, "wrong: %d\n", wrong);
    return 0;
}
