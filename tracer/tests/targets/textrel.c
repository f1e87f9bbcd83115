// Code that the loader changes: link it with `-z notext`. Prints what it computes.
#include <stdio.h>

long counter = 77;
long fetch(void);
long around(void);

__asm__(
    ".text\n"
    ".globl fetch\n"
    ".type fetch,@function\n"
    "fetch:\n"
    "    movabs $counter, %rax\n"
    "    mov (%rax), %rax\n"
    "    ret\n"
    ".size fetch, .-fetch\n"
    ".globl around\n"
    ".type around,@function\n"
    "around:\n"
    "    push %rbx\n"
    "    movabs $counter, %rbx\n"
    "    mov (%rbx), %rax\n"
    "    pop %rbx\n"
    "    ret\n"
    ".size around, .-around\n");

int main(void) {
    long sum = 0;
    for (int i = 0; i < 3; i++) sum += fetch() + around();
    printf("sum %ld\n", sum);
    return 0;
}
