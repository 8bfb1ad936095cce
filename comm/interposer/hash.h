/* Tables of chains, by a number. */
#ifndef ROUNDELAY_HASH_H
#define ROUNDELAY_HASH_H

#include <stdint.h>

enum { BUCKET_BITS = 10, BUCKETS = 1 << BUCKET_BITS };
/* An odd number near 2^64 over the golden ratio spreads neighbours (Knuth, The Art of Computer
 * Programming, 6.4). */
static const uint64_t SPREAD = 0x9E3779B97F4A7C15u;

static inline int bucket_number(uint64_t key)
{
    return (int)(key * SPREAD >> (64 - BUCKET_BITS));
}

#endif
