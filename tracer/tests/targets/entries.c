// Functions whose first instructions a breakpoint can or cannot move along.
#include <stdio.h>

// Written in assembly, so that they begin exactly as intended.
#define FUNCTION(name, code)                                                      \
    __asm__(".text\n.balign 16\n.globl " #name "\n.type " #name ", @function\n" #name ":\n" code \
            "\n.size " #name ", . - " #name "\n")

int plain(int a, int b, int c, int d, int e, int f, int g, int h);
void frame(int a, int b, int c, int d, int e, int f, int g, int h);
int again(int n);
int second(int n);
int text(const char *s);
int clobbers(int a, int b);
int table(int n);

// Moves to the push.
FUNCTION(plain, "endbr64\n push %rbx\n mov %edi, %ebx\n lea (%rbx,%rsi), %eax\n pop %rbx\n ret");
// Moves past the change of the stack pointer, to the jump: arguments on the stack are still found.
FUNCTION(frame, "endbr64\n sub $24, %rsp\n xor %eax, %eax\n jmp 1f\n1: add $24, %rsp\n ret");
// Jumps back to its first instruction: each time counts.
FUNCTION(again, "endbr64\n mov %edi, %eax\n test %edi, %edi\n je 1f\n dec %edi\n jmp again\n1: ret");
// Jumps back to its second instruction, which must not count.
FUNCTION(second, "endbr64\n2: mov %edi, %eax\n test %edi, %edi\n je 1f\n dec %edi\n jmp 2b\n1: ret");
FUNCTION(text, "endbr64\n mov %rdi, %rax\n nop\n movzbl (%rdi), %eax\n ret");
// The first instruction changes what the probe reads.
FUNCTION(clobbers, "mov %esi, %edi\n nop\n mov %edi, %eax\n ret");
// Jumps to an address in a register.
FUNCTION(table, "endbr64\n mov %edi, %eax\n jmp 3f\n3: lea 1f(%rip), %rdx\n jmp *%rdx\n1: ret");

int main(void) {
    int sum = plain(1, 2, 3, 4, 5, 6, 7, 8);
    frame(1, 2, 3, 4, 5, 6, 7, 8);
    sum += again(2) + second(2) + text("hello") + clobbers(1, 2) + table(3);
    fprintf(stderr, "%d\n", sum);
    return 0;
}
