#include "pool.h"

#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>

/* Blocks are powers of two, with a header that says which. A thread keeps a few of each size, two of large
 * ones: an exchange has one for each direction, and new memory takes longer than a copy. */
enum {
    SMALLEST_BITS = 8,
    LARGEST_KEPT_BITS = 27,
    SIZES = 48,
    MOST_KEPT = 16,
    LEAST_KEPT = 2,
    ALIGNMENT = 64
};
static const int64_t KEPT_BYTES = 32 << 20;

struct block {
    int bits;
    struct block *next;
    char padding[ALIGNMENT - sizeof(int) - sizeof(void *) - sizeof(int)];
    char memory[];
};

struct pool {
    struct block *free[SIZES];
    int kept[SIZES];
};

static pthread_key_t key;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static _Thread_local struct pool *mine;

static void drop(void *pointer)
{
    struct pool *pool = pointer;
    /* Other destructors of the thread may still give blocks back: into a new pool. */
    mine = NULL;
    for (int bits = 0; bits < SIZES; bits++) {
        for (struct block *block = pool->free[bits], *next; block != NULL; block = next) {
            next = block->next;
            free(block);
        }
    }
    free(pool);
}

static void make_key(void)
{
    pthread_key_create(&key, drop);
}

static struct pool *own(void)
{
    if (mine == NULL) {
        pthread_once(&once, make_key);
        mine = calloc(1, sizeof *mine);
        pthread_setspecific(key, mine);
    }
    return mine;
}

char *take_block(int64_t nbytes)
{
    int bits = SMALLEST_BITS;
    while (bits < SIZES - 1 && ((int64_t)1 << bits) < nbytes)
        bits++;
    struct pool *pool = own();
    struct block *block = pool == NULL ? NULL : pool->free[bits];
    if (block != NULL) {
        pool->free[bits] = block->next;
        pool->kept[bits]--;
        return block->memory;
    }
    block = aligned_alloc(ALIGNMENT, sizeof *block + ((size_t)1 << bits));
    if (block == NULL)
        return NULL;
    block->bits = bits;
    return block->memory;
}

static int kept_of(int bits)
{
    const int64_t number = KEPT_BYTES >> bits;
    if (bits > LARGEST_KEPT_BITS)
        return 0;
    return number > MOST_KEPT ? MOST_KEPT : number < LEAST_KEPT ? LEAST_KEPT : (int)number;
}

void give_block_back(char *memory)
{
    struct block *block = (struct block *)(memory - offsetof(struct block, memory));
    const int bits = block->bits;
    struct pool *pool = own();
    if (pool == NULL || pool->kept[bits] >= kept_of(bits)) {
        free(block);
        return;
    }
    block->next = pool->free[bits];
    pool->free[bits] = block;
    pool->kept[bits]++;
}
