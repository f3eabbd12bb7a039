/* A pool of threads that share one job at a time: (argument, part, parts), part 0 for the caller.

   A submission to a Python pool costs some 50 microseconds; this costs a few. Threads without a part are neither woken
   nor waited for. Waiting threads spin for a moment, since the next phase of a training step comes soon. Then they let
   others go first, for these may be who they wait for, on the same core; and who waits for a job sleeps at last. */

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
enum { RNN_MOST_PARTS = 64, RNN_PARTS = 127 };

/* Where a thread sleeps. */
struct rnn_bed {
    _Alignas(128) pthread_mutex_t lock;
    pthread_cond_t wake;
    atomic_int asleep;
};

static struct {
    pthread_mutex_t turn;    /* held while a job runs */
    ptrdiff_t threads;       /* started so far, without the caller */
    _Alignas(128) atomic_ulong call;    /* the parts of the latest job, in the bits RNN_PARTS, and above them its number */
    rnn_job job;
    void* argument;
    _Alignas(128) atomic_long busy;     /* threads that have not finished their part */
    struct rnn_bed beds[RNN_MOST_PARTS];
} rnn_pool = {.turn = PTHREAD_MUTEX_INITIALIZER};

static void rnn_pause(long spin) {
    if (spin < RNN_SPINS) RNN_PAUSE();
    else sched_yield();
}

/* Whether there is a job since the one seen that has such a part. While it has, no other one is called. */
static int rnn_called(ptrdiff_t part, unsigned long seen, unsigned long* call) {
    *call = atomic_load(&rnn_pool.call);
    return *call != seen && part < (ptrdiff_t)(*call & RNN_PARTS);
}

static unsigned long rnn_next_call(ptrdiff_t part, unsigned long seen) {
    struct rnn_bed* bed = &rnn_pool.beds[part];
    unsigned long call;
    for (long spin = 0; spin < RNN_SPINS + RNN_YIELDS; spin++) {
        if (rnn_called(part, seen, &call)) return call;
        rnn_pause(spin);
    }
    pthread_mutex_lock(&bed->lock);
    atomic_store(&bed->asleep, 1);           /* whoever calls looks at this after the call, and here it is before */
    while (!rnn_called(part, seen, &call)) pthread_cond_wait(&bed->wake, &bed->lock);
    atomic_store(&bed->asleep, 0);
    pthread_mutex_unlock(&bed->lock);
    return call;
}

static void rnn_wake(ptrdiff_t part) {
    struct rnn_bed* bed = &rnn_pool.beds[part];
    if (!atomic_load(&bed->asleep)) return;
    pthread_mutex_lock(&bed->lock);
    pthread_cond_signal(&bed->wake);
    pthread_mutex_unlock(&bed->lock);
}

static void* rnn_work(void* number) {
    ptrdiff_t part = (ptrdiff_t)number;
    /* a thread is started before the job that needs it is called, and joins in with that one */
    unsigned long call = atomic_load(&rnn_pool.call);
    atomic_fetch_sub(&rnn_pool.busy, 1);
    for (;;) {
        call = rnn_next_call(part, call);
        rnn_pool.job(rnn_pool.argument, part, (ptrdiff_t)(call & RNN_PARTS));
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
    atomic_store(&rnn_pool.busy, 0);
    rnn_pool.threads = 0;
}

static void rnn_grow(ptrdiff_t threads) {
    static int registered = 0;
    if (!registered) registered = pthread_atfork(NULL, NULL, rnn_forget) == 0;
    while (rnn_pool.threads < threads) {
        ptrdiff_t part = rnn_pool.threads + 1;
        pthread_t thread;
        pthread_mutex_init(&rnn_pool.beds[part].lock, NULL);
        pthread_cond_init(&rnn_pool.beds[part].wake, NULL);
        atomic_store(&rnn_pool.beds[part].asleep, 0);
        atomic_store(&rnn_pool.busy, 1);
        if (pthread_create(&thread, NULL, rnn_work, (void*)part) != 0) {
            atomic_store(&rnn_pool.busy, 0);
            return;
        }
        pthread_detach(thread);
        rnn_wait();
        rnn_pool.threads++;
    }
}

static void rnn_parallel(rnn_job job, void* argument, ptrdiff_t parts) {
    ptrdiff_t threads, part;
    if (parts <= 1) {
        job(argument, 0, 1);
        return;
    }
    pthread_mutex_lock(&rnn_pool.turn);
    rnn_grow(parts - 1);
    threads = parts - 1 < rnn_pool.threads ? parts - 1 : rnn_pool.threads;
    rnn_pool.job = job;
    rnn_pool.argument = argument;
    atomic_store(&rnn_pool.busy, threads);
    atomic_store(&rnn_pool.call, ((atomic_load(&rnn_pool.call) | RNN_PARTS) + 1) | (unsigned long)parts);
    for (part = 1; part <= threads; part++) rnn_wake(part);
    job(argument, 0, parts);
    /* where fewer threads could be started than asked for, the rest is done here */
    for (; part < parts; part++) job(argument, part, parts);
    rnn_wait();
    pthread_mutex_unlock(&rnn_pool.turn);
}

#endif
#endif
