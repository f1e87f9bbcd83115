// Programs that leave functions otherwise than by their return, or run on other stacks than they began on.
// Each mode computes something, and says it at the end.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#define KEEP __asm__ volatile("" ::: "memory")
#define STACK (128 * 1024)

// ---- two fibers that switch in the middle of a call ----

static ucontext_t scheduler, fibers[2];
static int running;
static long switches, done;

__attribute__((noinline)) void yield_context(void) {
    switches++;
    swapcontext(&fibers[running], &scheduler);
    KEEP;
}

__attribute__((noinline)) long step_context(long n) {
    yield_context();
    KEEP;
    return n + 1;
}

static void fiber_context(void) {
    long n = 0;
    for (int i = 0; i < 50; i++) n = step_context(n);
    done += n;
}

static void contexts(void) {
    char *stacks = malloc(2 * STACK);
    for (int i = 0; i < 2; i++) {
        getcontext(&fibers[i]);
        fibers[i].uc_stack.ss_sp = stacks + i * STACK;
        fibers[i].uc_stack.ss_size = STACK;
        fibers[i].uc_link = &scheduler;
        makecontext(&fibers[i], fiber_context, 0);
    }
    for (int i = 0; i < 102; i++) {
        running = i % 2;
        swapcontext(&scheduler, &fibers[running]);
    }
    printf("%ld switches, %ld done\n", switches, done);
}

// ---- the same by hand: no function of libc gives it away ----

#ifdef __x86_64__
static void *main_stack, *fiber_stacks[2];
void switch_stacks(void **from, void *to);
__asm__(".text\n.globl switch_stacks\n.type switch_stacks,@function\nswitch_stacks:\n"
        "push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15\n"
        "mov %rsp, (%rdi); mov %rsi, %rsp\n"
        "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp; ret\n"
        ".size switch_stacks, .-switch_stacks\n");

__attribute__((noinline)) void yield_by_hand(void) {
    switches++;
    switch_stacks(&fiber_stacks[running], main_stack);
    KEEP;
}

__attribute__((noinline)) long step_by_hand(long n) {
    yield_by_hand();
    KEEP;
    return n + 1;
}

static void fiber_by_hand(void) {
    long n = 0;
    for (int i = 0; i < 50; i++) n = step_by_hand(n);
    done += n;
    for (;;) yield_by_hand();
}

static void by_hand(void) {
    char *memory = malloc(2 * STACK);
    for (int i = 0; i < 2; i++) {
        void **top = (void **)(((uintptr_t)(memory + (i + 1) * STACK) & ~15ul) - 8);
        *--top = (void *)fiber_by_hand;
        for (int r = 0; r < 6; r++) *--top = 0;
        fiber_stacks[i] = top;
    }
    for (int i = 0; i < 102; i++) {
        running = i % 2;
        switch_stacks(&main_stack, fiber_stacks[running]);
    }
    printf("%ld switches, %ld done\n", switches, done);
}
#else
static void by_hand(void) { puts("only on x86-64"); }
#endif

// ---- a handler on an alternate stack, above the thread's own ----

static volatile long handled;

__attribute__((noinline)) long inner(long n) {
    KEEP;
    return n * 2;
}

static void handler(int signal) {
    (void)signal;
    handled += inner(21);
}

__attribute__((noinline)) long outer(long n) {
    raise(SIGUSR1);
    KEEP;
    return n + inner(n);
}

static void *on_a_low_stack(void *unused) {
    (void)unused;
    long sum = 0;
    for (long i = 0; i < 20; i++) sum += outer(i);
    return (void *)sum;
}

static void *low_thread(void *alternate) {
    stack_t stack = {.ss_sp = alternate, .ss_size = STACK};
    sigaltstack(&stack, NULL);
    return on_a_low_stack(NULL);
}

static void alternate(void) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_ONSTACK};
    sigaction(SIGUSR1, &action, NULL);
    // One piece of memory: the thread's stack below, the handler's above.
    char *memory = mmap(NULL, 3 * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstack(&attributes, memory, 2 * STACK);
    pthread_t thread;
    void *sum = NULL;
    pthread_create(&thread, &attributes, low_thread, memory + 2 * STACK);
    pthread_join(thread, &sum);
    printf("%ld handled, sum %ld\n", handled, (long)sum);
}

// ---- threads that are cancelled inside calls ----

static int tidied;
static void tidy(void *unused) {
    (void)unused;
    __atomic_add_fetch(&tidied, 1, __ATOMIC_SEQ_CST);
}

static int pipes[2];

__attribute__((noinline)) long wait_inside(long n) {
    char byte;
    long got = read(pipes[0], &byte, 1);
    KEEP;
    return got + n;
}

static void *cancelled(void *unused) {
    (void)unused;
    pthread_cleanup_push(tidy, NULL);
    wait_inside(1);
    pthread_cleanup_pop(1);
    return NULL;
}

static void cancel(void) {
    if (pipe(pipes) != 0) abort();
    for (int i = 0; i < 20; i++) {
        pthread_t thread;
        pthread_create(&thread, NULL, cancelled, NULL);
        usleep(2000);
        pthread_cancel(thread);
        pthread_join(thread, NULL);
    }
    printf("%d tidied\n", tidied);
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "";
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (strcmp(mode, "contexts") == 0) contexts();
    else if (strcmp(mode, "by-hand") == 0) by_hand();
    else if (strcmp(mode, "alternate") == 0) alternate();
    else if (strcmp(mode, "cancel") == 0) cancel();
    else return 2;
    return 0;
}
