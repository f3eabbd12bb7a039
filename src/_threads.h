/* A pool of threads that share one job at a time: (argument, part, parts), part 0 for the caller.

   A submission to a Python pool costs some 50 microseconds; this costs a few. Waiting threads spin
   for a moment, since the next phase of a training step comes soon. Then they let others go first, for
   these may be who they wait for, on the same core; and who waits for a job sleeps at last. */

#ifndef RNN_THREADS_H
#define RNN_THREADS_H

#include <stddef.h>

typedef void (*rnn_job)(void* argument, ptrdiff_t part, ptrdiff_t parts);

#if defined(_WIN32)

static void rnn_parallel(rnn_job job, void* argument, ptrdiff_t parts) {
    for (ptrdiff_t part = 0; part < parts; part++) job(argument, part, parts);
}

#else

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#if defined(__x86_64__) || defined(__i386__)
#define RNN_PAUSE() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define RNN_PAUSE() __asm__ volatile("isb")   /* a hint like x86's pause is done at once there */
#else
#define RNN_PAUSE() sched_yield()
#endif

enum { RNN_SPINS = 1000, RNN_YIELDS = 200 };   /* 0.1 ms or more: the steps of a training loop follow closer */

static struct {
    pthread_mutex_t turn;    /* held while a job runs */
    pthread_mutex_t lock;    /* guards round, for those who sleep */
    pthread_cond_t wake;
    atomic_long round;       /* grows by one with every job */
    atomic_long busy;        /* threads that have not finished it */
    ptrdiff_t threads;       /* started so far, without the caller */
    ptrdiff_t parts;
    rnn_job job;
    void* argument;
} rnn_pool = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER};

static void rnn_pause(long spin) {
    if (spin < RNN_SPINS) RNN_PAUSE();
    else sched_yield();
}

static long rnn_next_round(long round) {
    for (long spin = 0; spin < RNN_SPINS + RNN_YIELDS; spin++) {
        if (atomic_load(&rnn_pool.round) != round) return round + 1;
        rnn_pause(spin);
    }
    pthread_mutex_lock(&rnn_pool.lock);
    while (atomic_load(&rnn_pool.round) == round) pthread_cond_wait(&rnn_pool.wake, &rnn_pool.lock);
    pthread_mutex_unlock(&rnn_pool.lock);
    return round + 1;
}

static void* rnn_work(void* number) {
    ptrdiff_t part = (ptrdiff_t)number;
    /* a thread is started before the job that needs it is announced, and joins in with that one */
    long round = atomic_load(&rnn_pool.round);
    atomic_fetch_sub(&rnn_pool.busy, 1);
    for (;;) {
        round = rnn_next_round(round);
        if (part < rnn_pool.parts) rnn_pool.job(rnn_pool.argument, part, rnn_pool.parts);
        atomic_fetch_sub(&rnn_pool.busy, 1);
    }
    return NULL;
}

static void rnn_wait(void) {
    for (long spin = 0; atomic_load(&rnn_pool.busy) > 0; spin++) rnn_pause(spin);
}

/* The child of a fork has none of its parent's threads. */
static void rnn_forget(void) {
    pthread_mutex_init(&rnn_pool.turn, NULL);
    pthread_mutex_init(&rnn_pool.lock, NULL);
    pthread_cond_init(&rnn_pool.wake, NULL);
    atomic_store(&rnn_pool.busy, 0);
    rnn_pool.threads = 0;
}

static void rnn_grow(ptrdiff_t threads) {
    static int registered = 0;
    if (!registered) registered = pthread_atfork(NULL, NULL, rnn_forget) == 0;
    while (rnn_pool.threads < threads) {
        pthread_t thread;
        atomic_store(&rnn_pool.busy, 1);
        if (pthread_create(&thread, NULL, rnn_work, (void*)(rnn_pool.threads + 1)) != 0) {
            atomic_store(&rnn_pool.busy, 0);
            return;
        }
        pthread_detach(thread);
        rnn_wait();
        rnn_pool.threads++;
    }
}

static void rnn_parallel(rnn_job job, void* argument, ptrdiff_t parts) {
    if (parts <= 1) {
        job(argument, 0, 1);
        return;
    }
    pthread_mutex_lock(&rnn_pool.turn);
    rnn_grow(parts - 1);
    rnn_pool.job = job;
    rnn_pool.argument = argument;
    rnn_pool.parts = parts;
    atomic_store(&rnn_pool.busy, rnn_pool.threads);
    pthread_mutex_lock(&rnn_pool.lock);
    atomic_fetch_add(&rnn_pool.round, 1);
    pthread_cond_broadcast(&rnn_pool.wake);
    pthread_mutex_unlock(&rnn_pool.lock);
    job(argument, 0, parts);
    /* where fewer threads could be started than asked for, the rest is done here */
    for (ptrdiff_t part = rnn_pool.threads + 1; part < parts; part++) job(argument, part, parts);
    rnn_wait();
    pthread_mutex_unlock(&rnn_pool.turn);
}

#endif
#endif
