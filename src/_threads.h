/* A pool of threads that share one job at a time: (argument, part, parts), part 0 for the caller. A caller that finds
   the pool at work for another one runs all parts itself.

   A submission to a Python pool costs some 50 microseconds; this costs one. Threads without a part are neither woken
   nor waited for; and the caller takes over the part of who has not come by the time that it has done its own. Waiting
   threads spin for a moment, since the next phase of a training step comes soon. Then they let others go first, for
   these may be who they wait for, on the same core; and who waits for a part sleeps at last. */

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
enum { RNN_MOST_PARTS = 64 };

/* Where a thread sleeps. */
struct rnn_bed {
    _Alignas(128) pthread_mutex_t lock;
    pthread_cond_t wake;
    atomic_int asleep;
};

static struct {
    pthread_mutex_t turn;               /* held while a job runs */
    ptrdiff_t threads;                  /* started so far, without the caller */
    _Alignas(128) atomic_ullong open;   /* a bit for each part that nobody has taken yet; who does finds its job here: */
    rnn_job job;
    void* argument;
    ptrdiff_t parts;
    _Alignas(128) atomic_long done;     /* parts that threads have finished */
    struct rnn_bed beds[RNN_MOST_PARTS];
} rnn_pool = {.turn = PTHREAD_MUTEX_INITIALIZER};

static void rnn_pause(long spin) {
    if (spin < RNN_SPINS) RNN_PAUSE();
    else sched_yield();
}

static int rnn_is_open(ptrdiff_t part) { return atomic_load(&rnn_pool.open) >> part & 1; }

static int rnn_take(ptrdiff_t part) {
    unsigned long long bit = 1ull << part;
    return rnn_is_open(part) && (atomic_fetch_and(&rnn_pool.open, ~bit) & bit);
}

static void rnn_wait_for(ptrdiff_t part) {
    struct rnn_bed* bed = &rnn_pool.beds[part];
    for (long spin = 0; spin < RNN_SPINS + RNN_YIELDS; spin++) {
        if (rnn_is_open(part)) return;
        rnn_pause(spin);
    }
    pthread_mutex_lock(&bed->lock);
    atomic_store(&bed->asleep, 1);      /* the caller looks at this after it has opened parts; here it is the reverse */
    while (!rnn_is_open(part)) pthread_cond_wait(&bed->wake, &bed->lock);
    atomic_store(&bed->asleep, 0);
    pthread_mutex_unlock(&bed->lock);
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
    for (;;) {
        rnn_wait_for(part);
        if (!rnn_take(part)) continue;
        rnn_pool.job(rnn_pool.argument, part, rnn_pool.parts);
        atomic_fetch_add(&rnn_pool.done, 1);
    }
    return NULL;
}

/* The child of a fork has none of its parent's threads. */
static void rnn_forget(void) {
    pthread_mutex_init(&rnn_pool.turn, NULL);
    atomic_store(&rnn_pool.open, 0);
    rnn_pool.threads = 0;
}

static void rnn_grow(ptrdiff_t threads) {
    static int registered = 0;
    if (!registered) registered = pthread_atfork(NULL, NULL, rnn_forget) == 0;
    while (rnn_pool.threads < threads) {
        ptrdiff_t part = rnn_pool.threads + 1;
        struct rnn_bed* bed = &rnn_pool.beds[part];
        pthread_t thread;
        pthread_mutex_init(&bed->lock, NULL);
        pthread_cond_init(&bed->wake, NULL);
        atomic_store(&bed->asleep, 0);
        if (pthread_create(&thread, NULL, rnn_work, (void*)part) != 0) return;
        pthread_detach(thread);
        rnn_pool.threads++;
    }
}

static void rnn_parallel(rnn_job job, void* argument, ptrdiff_t parts) {
    ptrdiff_t part;
    long others = 0;
    if (parts <= 1) {
        job(argument, 0, 1);
        return;
    }
    if (pthread_mutex_trylock(&rnn_pool.turn) != 0) {      /* the pool works for another thread: no reason to wait */
        for (part = 0; part < parts; part++) job(argument, part, parts);
        return;
    }
    rnn_grow(parts - 1);
    rnn_pool.job = job;
    rnn_pool.argument = argument;
    rnn_pool.parts = parts;
    atomic_store(&rnn_pool.done, 0);
    atomic_store(&rnn_pool.open, (2ull << (parts - 1)) - 2);      /* all but part 0 */
    for (part = 1; part < parts && part <= rnn_pool.threads; part++) rnn_wake(part);
    job(argument, 0, parts);
    for (part = 1; part < parts; part++) {
        if (rnn_take(part)) job(argument, part, parts);
        else others++;
    }
    for (long spin = 0; atomic_load(&rnn_pool.done) < others; spin++) rnn_pause(spin);
    pthread_mutex_unlock(&rnn_pool.turn);
}

#endif
#endif
