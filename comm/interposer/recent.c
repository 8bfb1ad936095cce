/* Recent look-ups of each thread, which it finds again without a lock. */
#include "door.h"
#include "hash.h"
#include "layouts.h"

#include <pthread.h>
#include <stdlib.h>

enum { RECENT_BITS = 6, RECENT = 1 << RECENT_BITS };

struct recent {
    MPI_Datatype datatype;
    bool readable;
    struct known known;
    /* That for the last count: it stays while it is here. */
    struct program *program;
};

/* By the datatype, as long as none is forgotten: MPI uses handles again. */
struct memory {
    unsigned generation;
    struct recent recent[RECENT];
};

static pthread_key_t key;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static QUICK_THREAD_LOCAL struct memory *mine;

static void clear(struct memory *memory)
{
    for (int i = 0; i < RECENT; i++)
        give_back(memory->recent[i].program);
    *memory = (struct memory){.generation = atomic_load_explicit(&generation, memory_order_acquire)};
}

static void drop(void *memory)
{
    mine = NULL;
    clear(memory);
    free(memory);
}

static void make_key(void)
{
    pthread_key_create(&key, drop);
}

/* The look-ups of this thread; NULL where there is no memory. */
static struct memory *own(void)
{
    if (UNLIKELY(mine == NULL)) {
        pthread_once(&once, make_key);
        mine = calloc(1, sizeof *mine);
        pthread_setspecific(key, mine);
    }
    if (mine != NULL && UNLIKELY(mine->generation != atomic_load_explicit(&generation, memory_order_acquire)))
        clear(mine);
    return mine;
}

static struct recent *look_up(MPI_Datatype datatype)
{
    struct memory *memory = own();
    if (memory == NULL)
        return NULL;
    struct recent *recent = &memory->recent[(uint64_t)(uintptr_t)datatype * SPREAD >> (64 - RECENT_BITS)];
    if (LIKELY(recent->datatype == datatype))
        return recent;
    struct recent found = {.datatype = datatype};
    /* This may ask Python, which may look up others. */
    found.readable = learn(datatype, &found.known);
    give_back(recent->program);
    *recent = found;
    return recent;
}

bool know(MPI_Datatype datatype, struct known *known)
{
    const struct recent *recent = look_up(datatype);
    if (recent == NULL || !recent->readable)
        return false;
    *known = recent->known;
    return true;
}

static struct program *recall(MPI_Datatype datatype, int64_t count, bool receives)
{
    struct recent *recent = look_up(datatype);
    if (recent != NULL && UNLIKELY(recent->program == NULL || recent->program->count != count)) {
        struct program *program = find_program(datatype, count);
        /* Another may have its place now. */
        recent = look_up(datatype);
        give_back(recent->program);
        recent->program = program;
    }
    struct program *program = recent == NULL ? NULL : recent->program;
    return program == NULL || (receives && program->overlaps) ? NULL : program;
}

const struct program *borrow_program(MPI_Datatype datatype, int64_t count, bool receives)
{
    return recall(datatype, count, receives);
}

struct program *program_of(MPI_Datatype datatype, int64_t count, bool receives)
{
    struct program *program = recall(datatype, count, receives);
    if (program != NULL)
        atomic_fetch_add(&program->users, 1);
    return program;
}
