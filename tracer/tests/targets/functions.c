// Calls each of many functions many times: fn_0000 … fn_9999, or with -DFIVE fn_00000 … fn_99999.
//
//   functions TIMES [wait]
//
// With `wait`, says `ready` and waits for a line first, and for the end of its input at the end.
#include <stdio.h>
#include <stdlib.h>

static volatile int sink;

// A macro is not expanded inside itself, so each digit has its own.
#define DEFINE(n) __attribute__((noinline, noipa)) void fn_##n(int v) { sink = v; }
#define NAME(n) fn_##n,

#define D1(n) DEFINE(n##0) DEFINE(n##1) DEFINE(n##2) DEFINE(n##3) DEFINE(n##4) \
              DEFINE(n##5) DEFINE(n##6) DEFINE(n##7) DEFINE(n##8) DEFINE(n##9)
#define D2(n) D1(n##0) D1(n##1) D1(n##2) D1(n##3) D1(n##4) D1(n##5) D1(n##6) D1(n##7) D1(n##8) D1(n##9)
#define D3(n) D2(n##0) D2(n##1) D2(n##2) D2(n##3) D2(n##4) D2(n##5) D2(n##6) D2(n##7) D2(n##8) D2(n##9)
#define D4(n) D3(n##0) D3(n##1) D3(n##2) D3(n##3) D3(n##4) D3(n##5) D3(n##6) D3(n##7) D3(n##8) D3(n##9)
#define N1(n) NAME(n##0) NAME(n##1) NAME(n##2) NAME(n##3) NAME(n##4) \
              NAME(n##5) NAME(n##6) NAME(n##7) NAME(n##8) NAME(n##9)
#define N2(n) N1(n##0) N1(n##1) N1(n##2) N1(n##3) N1(n##4) N1(n##5) N1(n##6) N1(n##7) N1(n##8) N1(n##9)
#define N3(n) N2(n##0) N2(n##1) N2(n##2) N2(n##3) N2(n##4) N2(n##5) N2(n##6) N2(n##7) N2(n##8) N2(n##9)
#define N4(n) N3(n##0) N3(n##1) N3(n##2) N3(n##3) N3(n##4) N3(n##5) N3(n##6) N3(n##7) N3(n##8) N3(n##9)

#define ALL(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9)
#ifdef FIVE
ALL(D4)
static void (*const functions[])(int) = {ALL(N4)};
#else
ALL(D3)
static void (*const functions[])(int) = {ALL(N3)};
#endif

int main(int argc, char **argv) {
    int times = argc > 1 ? atoi(argv[1]) : 20;
    if (argc > 2) {
        puts("ready");
        fflush(stdout);
        if (getchar() == EOF) return 1;
    }
    for (int i = 0; i < times; i++)
        for (size_t f = 0; f < sizeof functions / sizeof *functions; f++) functions[f](i);
    if (argc > 2) {
        puts("done");
        fflush(stdout);
        while (getchar() != EOF) {}
    }
    return 0;
}
