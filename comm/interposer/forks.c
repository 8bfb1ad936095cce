/* A child has one thread, and no other to let go of a lock that was held when it began. */
#include "forks.h"

enum { MOST_LOCKS = 4 };

static pthread_mutex_t *locks[MOST_LOCKS];
static int lock_count;

static void hold(void)
{
    for (int i = 0; i < lock_count; i++)
        pthread_mutex_lock(locks[i]);
}

static void let_go(void)
{
    for (int i = lock_count - 1; i >= 0; i--)
        pthread_mutex_unlock(locks[i]);
}

void hold_in_forks(pthread_mutex_t *lock)
{
    if (lock_count == 0)
        pthread_atfork(hold, let_go, let_go);
    locks[lock_count++] = lock;
}
