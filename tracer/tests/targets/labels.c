// Labels without a type, of code and of data. Prints what it computes from them.
#include <stdio.h>

long lookup(long index);
long entered(long number);
extern const int limits[];

__asm__(
    ".text\n"
    ".globl lookup\n"
    ".type lookup,@function\n"
    "lookup:\n"
    "    lea table(%rip), %rax\n"
    "    movzbl (%rax,%rdi,1), %eax\n"
    "    jmp passed\n"
    "    .size lookup, .-lookup\n"
    ".globl table\n"
    // As code: jumps back and forth, also to the labels around it.
    "table: .byte 0x75, 0x06, 0xeb, 0x04, 0x55, 0x66, 0x77, 0x88\n"
    ".globl passed\n"
    "passed:\n"
    "    ret\n"
    ".globl table_end\n"
    "table_end:\n"
    "    nop\n"
    // Called, but its symbol says nothing.
    ".globl entered\n"
    "entered:\n"
    "    lea 1(%rdi), %rax\n"
    "    ret\n"
    ".size entered, .-entered\n"
    ".section .rodata\n"
    ".globl limits\n"
    "limits: .long 100, 200, 300\n"
    ".previous\n");

int main(void) {
    long sum = 0;
    for (long i = 0; i < 8; i++) sum += lookup(i) * 3 + entered(i);
    printf("sum %ld %d\n", sum, limits[0] + limits[1] + limits[2]);
    return 0;
}
