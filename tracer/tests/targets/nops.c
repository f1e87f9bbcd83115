// One function for each nop that assemblers pad with, called 100 times: `nops 4` calls the one that begins
// with a nop of four bytes. Says on standard error whether the kernel single-stepped any of this program's
// instructions: it then maps a page for them.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NOP(bytes, ...)                                                                            \
    __asm__(".text\n.balign 16\n.globl nop" #bytes "\n.type nop" #bytes ", @function\nnop" #bytes  \
            ":\n .byte " __VA_ARGS__ "\n ret\n.size nop" #bytes ", . - nop" #bytes "\n");           \
    void nop##bytes(void);

NOP(1, "0x90")
NOP(2, "0x66, 0x90")
NOP(3, "0x0f, 0x1f, 0x00")
NOP(4, "0x0f, 0x1f, 0x40, 0x00")
NOP(5, "0x0f, 0x1f, 0x44, 0x00, 0x00")
NOP(6, "0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00")
NOP(7, "0x0f, 0x1f, 0x80, 0, 0, 0, 0")
NOP(8, "0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0")
NOP(9, "0x66, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0")
NOP(10, "0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0")
// Not a nop, for comparison.
NOP(0, "0x89, 0xf8")

int main(int argc, char **argv) {
    void (*const nops[])(void) = {nop0, nop1, nop2, nop3, nop4, nop5, nop6, nop7, nop8, nop9, nop10};
    int bytes = argc > 1 ? atoi(argv[1]) : 0;
    for (int call = 0; call < 100; call++)
        nops[bytes]();
    int stepped = 0;
    char line[512];
    FILE *maps = fopen("/proc/self/maps", "r");
    while (maps && fgets(line, sizeof line, maps))
        stepped |= strstr(line, "[uprobes]\n") != NULL;
    fprintf(stderr, "single-stepped: %d\n", stepped);
    return 0;
}
