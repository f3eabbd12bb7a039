/* A pool of threads that runs one job at a time, split into parts. The caller runs part 0, and each worker thread has
   the part of its own number. A caller that finds the pool busy with another caller's job runs all parts itself.

   A submission costs about 1 microsecond; one to a Python thread pool costs about 50. A worker whose part does not
   exist is neither woken nor waited for. After its own part, the caller runs all parts that no worker has claimed yet.

   A waiting thread first spins, because the next phase of a training step comes soon. Then it yields, because the
   thread that it waits for may need the same core. A worker finally sleeps; the caller goes on yielding. */

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
#define RNN_PAUSE() __asm__ volatile("isb")   /* arm64's yield hint returns at once; isb waits */
#else
#define RNN_PAUSE() sched_yield()
#endif

/* A worker pauses and then yields this often before it sleeps: 0.1 ms or more in all, which is longer than the gap
   between two steps of a training loop. */
enum { RNN_SPINS = 1000, RNN_YIELDS = 200 };
enum { RNN_MOST_PARTS = 64 };   /* bits of `open` */

/* Where one worker sleeps, in cache lines of its own. */
struct rnn_bed {
    _Alignas(128) pthread_mutex_t lock;
    pthread_cond_t wake;
    atomic_int asleep;
};

static struct {
    pthread_mutex_t turn;               /* Held by the caller while its job runs. */
    ptrdiff_t threads;                  /* Number of workers started so far; the caller is not one. */
    _Alignas(128) atomic_ullong open;   /* Bit p is set while no thread has claimed part p of the job. */
    rnn_job job;                        /* The job's function; written before the bits of `open` are set. */
    void* argument;                     /* First argument of the job. */
    ptrdiff_t parts;                    /* Number of parts of the job, part 0 included. */
    _Alignas(128) atomic_long done;     /* Number of parts that workers have finished. */
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
    /* This thread sets `asleep` and then reads `open`; the caller sets `open` and then reads `asleep`. So at least one
       of them sees the other's store, and no wake-up is lost. */
    atomic_store(&bed->asleep, 1);
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

/* Runs in the child of a fork, which has none of its parent's threads. */
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
    if (pthread_mutex_trylock(&rnn_pool.turn) != 0) {      /* running all parts here is better than waiting */
        for (part = 0; part < parts; part++) job(argument, part, parts);
        return;
    }
    rnn_grow(parts - 1);
    rnn_pool.job = job;
    rnn_pool.argument = argument;
    rnn_pool.parts = parts;
    atomic_store(&rnn_pool.done, 0);
    atomic_store(&rnn_pool.open, (2ull << (parts - 1)) - 2);      /* parts 1 .. parts-1 */
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
