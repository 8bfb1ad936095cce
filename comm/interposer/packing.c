/* MPI_Pack and MPI_Unpack by our kernels. */
#include "door.h"
#include "layouts.h"
#include "staging.h"

/* The program that moves `count` instances from or to `position` of `size` packed bytes; NULL where the
 * library shall do it, or say what is wrong. */
static const struct program *program_for(MPI_Datatype datatype, int64_t count, int64_t position, int64_t size,
                                         bool receives)
{
    struct known known;
    if (passes(datatype) || count <= 0 || position < 0 || !know(datatype, &known) || is_run(&known, count))
        return NULL;
    const int64_t nbytes = count * known.size;
    if (is_left(&packing_limits, nbytes, known.flags & EASY_TO_PACK) || position + nbytes > size)
        return NULL;
    return borrow_program(datatype, count, receives);
}

#define PACK(NAME, COUNT)                                                                          \
    int roundelay_Pack##NAME(const void *memory, COUNT count, MPI_Datatype datatype, void *packed, \
                             COUNT size, COUNT *position, MPI_Comm comm)                           \
    {                                                                                              \
        ENTER(.function = FUNCTION_Pack);                                                          \
        const struct program *program = program_for(datatype, count, *position, size, false);      \
        if (program == NULL)                                                                       \
            return leave(next.Pack##NAME(memory, count, datatype, packed, size, position, comm));  \
        run_program(false, (char *)packed + *position, (char *)memory, program);                   \
        *position += (COUNT)program->nbytes;                                                       \
        return leave(MPI_SUCCESS);                                                                 \
    }
#define UNPACK(NAME, COUNT)                                                                                \
    int roundelay_Unpack##NAME(const void *packed, COUNT size, COUNT *position, void *memory, COUNT count, \
                               MPI_Datatype datatype, MPI_Comm comm)                                       \
    {                                                                                                      \
        ENTER(.function = FUNCTION_Unpack);                                                                \
        const struct program *program = program_for(datatype, count, *position, size, true);               \
        if (program == NULL)                                                                               \
            return leave(next.Unpack##NAME(packed, size, position, memory, count, datatype, comm));        \
        run_program(true, (char *)packed + *position, memory, program);                                    \
        *position += (COUNT)program->nbytes;                                                               \
        return leave(MPI_SUCCESS);                                                                         \
    }

PACK(, int)
PACK(_c, MPI_Count)
UNPACK(, int)
UNPACK(_c, MPI_Count)
