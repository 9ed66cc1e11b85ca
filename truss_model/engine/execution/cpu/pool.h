/* Threads that share the tasks of one call at a time.
 *
 * A caller that finds no free worker does all tasks itself: unlike at an OpenMP barrier nobody waits for a thread that the
 * kernel has not scheduled, which on a machine shared with a web server costs whole time slices. Workers look for new
 * work for some microseconds, long enough to bridge two calls of one layer, and then sleep.
 *
 * `ticket` holds everything a claim needs: generation (16 bits), number of tasks (24), next task (24). A late worker whose
 * number is not below the number of tasks touches nothing; a valid one is waited for, so its job stays in place.
 */
#pragma once
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#define SPINS 4000

typedef void (*pool_task)(const void *job, long task);

static struct {
    _Atomic uint64_t ticket;
    _Atomic long done;
    _Atomic int sleeping;
    pool_task run;
    const void *job;
    int workers;
    pthread_mutex_t busy, lock;
    pthread_cond_t wake;
} pool = {.busy = PTHREAD_MUTEX_INITIALIZER, .lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

static inline void pool_pause(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

/* Claims and runs tasks until none is left; returns the generation it found. */
static uint64_t pool_drain(void) {
    for (;;) {
        uint64_t claim = atomic_fetch_add(&pool.ticket, 1);
        long task = claim & 0xffffff, tasks = claim >> 24 & 0xffffff;
        if (task >= tasks) return claim >> 48;
        pool.run(pool.job, task);
        atomic_fetch_add(&pool.done, 1);
    }
}

static void *pool_worker(void *unused) {
    (void)unused;
    uint64_t seen = 0;
    for (;;) {
        int spins = 0;
        while (atomic_load(&pool.ticket) >> 48 == seen) {
            if (++spins < SPINS) {
                pool_pause();
                continue;
            }
            pthread_mutex_lock(&pool.lock);
            atomic_fetch_add(&pool.sleeping, 1);
            while (atomic_load(&pool.ticket) >> 48 == seen) pthread_cond_wait(&pool.wake, &pool.lock);
            atomic_fetch_sub(&pool.sleeping, 1);
            pthread_mutex_unlock(&pool.lock);
        }
        seen = pool_drain();
    }
    return 0;
}

/* Makes sure of `threads` threads, the caller's included. They live as long as the process. */
void pool_start(int threads) {
    pthread_mutex_lock(&pool.busy);
    for (; pool.workers < threads - 1; pool.workers++) {
        pthread_t thread;
        if (pthread_create(&thread, 0, pool_worker, 0)) break;
        pthread_detach(thread);
    }
    pthread_mutex_unlock(&pool.busy);
}

/* Runs tasks 0 .. tasks - 1 on all threads; a second caller at the same time does its tasks alone. */
static void pool_run(pool_task run, const void *job, long tasks) {
    if (tasks <= 1 || pool.workers == 0 || pthread_mutex_trylock(&pool.busy)) {
        for (long task = 0; task < tasks; task++) run(job, task);
        return;
    }
    pool.run = run;
    pool.job = job;
    atomic_store(&pool.done, 0);
    uint64_t generation = (atomic_load(&pool.ticket) >> 48) + 1;
    atomic_store(&pool.ticket, generation << 48 | (uint64_t)tasks << 24);
    if (atomic_load(&pool.sleeping)) {
        pthread_mutex_lock(&pool.lock);
        pthread_cond_broadcast(&pool.wake);
        pthread_mutex_unlock(&pool.lock);
    }
    pool_drain();
    for (int spins = 0; atomic_load(&pool.done) < tasks; spins++)
        if (spins < SPINS) pool_pause();
        else sched_yield();
    pthread_mutex_unlock(&pool.busy);
}
