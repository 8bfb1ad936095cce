/* Locks and processes that fork. */
#ifndef ROUNDELAY_FORKS_H
#define ROUNDELAY_FORKS_H

#include <pthread.h>

/* Hold a lock, which no fork may be made under, while this process forks. */
void hold_in_forks(pthread_mutex_t *lock);

#endif
