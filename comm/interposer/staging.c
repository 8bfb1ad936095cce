#include "staging.h"

#include "ask.h"
#include "door.h"
#include "frame.h"
#include "pool.h"

#include <stdlib.h>
#include <string.h>

struct limits message_limits, packing_limits;

/* The stage of one buffer of a call: its place in the program's memory, and the program that packs it. */
static struct stage *side_of(struct operation *operation, int flags)
{
    operation->fills = operation->fills || (flags & FILLS) != 0;
    return flags & RECEIVES ? &operation->receive : &operation->send;
}

/* A buffer that is both is packed into one stage. */
static void share(struct operation *operation, int flags)
{
    if ((flags & (SENDS | RECEIVES)) == (SENDS | RECEIVES))
        operation->send = operation->receive;
}

static void *no_memory(struct operation *operation)
{
    operation->refused = true;
    return NULL;
}

static bool allocate(struct operation *operation, struct stage *stage, int64_t nbytes)
{
    stage->block = take_block(nbytes);
    stage->nbytes = nbytes;
    if (stage->block == NULL)
        no_memory(operation);
    return stage->block != NULL;
}

/* The flags of a buffer of which MPI may write any part. */
static int partly(int flags)
{
    return flags & RECEIVES ? flags | FILLS : flags;
}

/* The array with gaps that mpi4py was given for this side of the call, if there was one. */
static struct strided *strided_of(const struct operation *operation, int flags, const void *buffer)
{
    if (!operation->special || buffer == MPI_IN_PLACE)
        return NULL;
    struct strided *strided = flags & RECEIVES ? &current->received : &current->sent;
    return strided->begin == NULL ? NULL : strided;
}

/* An array takes one element after another: a datatype with gaps over it has no meaning. */
static bool is_refused(struct operation *operation, const struct strided *strided, MPI_Datatype type)
{
    struct known known;
    if (strided == NULL || strided->is_dense || passes(type) ||
        (know(type, &known) && known.flags & PREDEFINED))
        return false;
    current->refusal = "message: a strided array cannot be combined with a derived datatype: pass the slice "
                       "alone, or the whole "
                       "array with the datatype";
    operation->refused = true;
    return true;
}

/* Refuse instances of a datatype that leave the memory that mpi4py was given. */
static void check_bounds(struct operation *operation, const char *buffer, int64_t count, MPI_Datatype type)
{
    struct frame *frame = operation->special ? current : NULL;
    for (int i = 0; frame != NULL && count > 0 && i < frame->extent_count; i++) {
        const struct extent *extent = &frame->extents[i];
        if (buffer < extent->begin || buffer > extent->begin + extent->nbytes || frame->error != NULL)
            continue;
        frame->error = ask_bounds(type, count, buffer - extent->begin, extent->nbytes);
        operation->refused = operation->refused || frame->error != NULL;
        return;
    }
}

static void stage_strided(struct operation *operation, int flags, struct strided *strided, void **buffer)
{
    struct stage *stage = side_of(operation, flags);
    if (strided->python != NULL) {
        /* The memory that mpi4py was given is a stage already. */
        stage->python = strided->python;
        stage->nbytes = strided->nbytes;
        strided->python = NULL;
    } else if (allocate(operation, stage, strided->nbytes)) {
        stage->parts = 1;
        stage->one = (struct part){strided->array->program, strided->begin, 0};
        atomic_fetch_add(&strided->array->program->users, 1);
        *buffer = stage->block + ((char *)*buffer - strided->begin);
    }
    if (flags & RECEIVES)
        operation->borrowed = strided->object;
    share(operation, flags);
}

static int64_t stage_whole(struct operation *operation, int flags, struct strided *strided, void **buffer,
                           int64_t count, MPI_Datatype *type, int blocks)
{
    struct array *array = strided->array;
    const bool covers = array != NULL && *buffer == strided->begin && *type == array->element &&
                        count * blocks * array->itemsize == array->nbytes;
    if (covers && flags & DESCRIBES && !(flags & PACKED) && !(array->flags & MISREAD) &&
        is_left(&message_limits, array->nbytes, array->flags & EASY_TO_SEND) && describe(array, type))
        return 1;
    stage_strided(operation, covers ? flags : partly(flags), strided, buffer);
    return count;
}

void stage_array(struct operation *operation, int flags, void **buffer)
{
    struct strided *strided = strided_of(operation, flags, *buffer);
    if (strided != NULL)
        stage_strided(operation, partly(flags), strided, buffer);
}

/* Whether there is nothing to pack, or nothing that we could; finds what is known of the datatype. */
static bool lies_together(const void *buffer, int64_t count, MPI_Datatype type, int flags,
                          struct known *known)
{
    return passes(type) || buffer == MPI_IN_PLACE || count <= 0 || !know(type, known) ||
           (is_run(known, count) && !(flags & MOVED)) || known->dense == 0;
}

/* Whether the library gets what is received into overlapping bytes, and says what it thinks of that. */
static bool is_left_if_overlapping(int flags)
{
    return flags & RECEIVES && !(flags & PACKED);
}

/* How many bytes some instances of datatypes have; more than any limit where MPI does not say. */
static int64_t bytes_of(int64_t count, MPI_Datatype type)
{
    MPI_Count size = 0;
    if (count == 0)
        return 0;
    if (next.Type_size_x(type, &size) != MPI_SUCCESS || size == MPI_UNDEFINED || count > INT32_MAX)
        return INT64_MAX / 2;
    return size > INT32_MAX ? INT64_MAX / 2 : count * size;
}

/* Whether the library moves a message of this size, whatever its layout is. Its datatype is not looked into
 * then, because some programs make a new one for each message. */
static bool is_small(int64_t nbytes)
{
    return nbytes <= message_limits.easy && nbytes <= message_limits.other;
}

static bool are_small(int blocks, int count_width, const void *counts, const MPI_Datatype *types, int step)
{
    bool small = true;
    for (int i = 0; i < blocks && small; i++)
        small = is_small(bytes_of(number_at(counts, count_width, i), types[i * step]));
    /* With one rank, Open MPI 5.0's Alltoallw takes displacements for extents and writes elsewhere. */
    return blocks > 1 && small;
}

bool stays(const void *buffer, int64_t count, MPI_Datatype type)
{
    struct known known;
    return passes(type) || is_small(bytes_of(count, type)) || lies_together(buffer, count, type, 0, &known) ||
           is_left(&message_limits, count * known.size, known.flags & EASY_TO_SEND);
}

int64_t stage_blocks(struct operation *operation, int flags, void **buffer, int64_t count, MPI_Datatype *type,
                     int blocks)
{
    struct strided *strided = strided_of(operation, flags, *buffer);
    if (is_refused(operation, strided, *type))
        return count;
    if (UNLIKELY(checks_bounds))
        check_bounds(operation, *buffer, count * blocks, *type);
    if (strided != NULL)
        return stage_whole(operation, flags, strided, buffer, count, type, blocks);
    const int64_t total = count * blocks;
    struct known known;
    if ((!(flags & PACKED) && stays(*buffer, total, *type)) ||
        lies_together(*buffer, total, *type, flags, &known))
        return count;
    struct program *program = program_of(*type, total, is_left_if_overlapping(flags));
    struct stage *stage = side_of(operation, flags);
    if (program == NULL || !allocate(operation, stage, total * known.size)) {
        give_back(program);
        return count;
    }
    stage->parts = 1;
    stage->one = (struct part){program, *buffer, 0};
    *buffer = stage->block;
    *type = known.dense;
    share(operation, flags);
    return count;
}

static void put_number(void *array, int width, int i, int64_t number)
{
    if (width == sizeof(int))
        ((int *)array)[i] = (int)number;
    else
        ((int64_t *)array)[i] = number;
}

/* One block of a collective with counts for each rank. */
struct place {
    MPI_Datatype type;
    struct known known;
    int64_t count, offset;
};

/* Stage all blocks together, if one of them is worth it and MPI allows all of them. */
static bool stage_places(struct operation *operation, int flags, void **buffer, const struct place *place,
                         int count)
{
    int64_t nbytes = 0, largest = 0;
    bool easy = true, dense = true;
    for (int i = 0; i < count; i++) {
        const int64_t own = place[i].count * place[i].known.size;
        nbytes += own;
        largest = own > largest ? own : largest;
        easy = easy && (place[i].known.flags & EASY_TO_SEND);
        dense = dense && is_run(&place[i].known, place[i].count);
    }
    /* With one rank, Open MPI 5.0's Alltoallw takes displacements for extents and writes elsewhere. */
    if (dense || (count > 1 && !(flags & PACKED) && is_left(&message_limits, largest, easy)))
        return false;
    struct part *parts = calloc((size_t)count, sizeof *parts);
    if (parts == NULL)
        return no_memory(operation) != NULL;
    int used = 0;
    bool well = true;
    int64_t offset = 0;
    for (int i = 0; i < count && well; i++) {
        if (place[i].count == 0)
            continue;
        struct program *program = program_of(place[i].type, place[i].count, is_left_if_overlapping(flags));
        well = program != NULL;
        parts[used++] = (struct part){program, (char *)*buffer + place[i].offset, offset};
        offset += place[i].count * place[i].known.size;
    }
    struct stage *stage = side_of(operation, flags);
    if (!well || !allocate(operation, stage, nbytes)) {
        for (int i = 0; i < used; i++)
            give_back(parts[i].program);
        free(parts);
        return false;
    }
    stage->parts = used;
    stage->many = parts;
    *buffer = stage->block;
    return true;
}

/* Whether packed data may begin there: what is packed once for each of several ranks may be longer than the
 * program's memory, and longer than its displacements can say. */
static bool fits(int64_t start, int width)
{
    return width != sizeof(int) || start <= INT32_MAX;
}

/* An array in the place of one of the program's, which lives as long as the operation. */
static void *substitute(struct operation *operation, size_t nbytes)
{
    int i = 0;
    while (operation->arrays[i] != NULL)
        i++;
    operation->arrays[i] = malloc(nbytes);
    return operation->arrays[i] != NULL ? operation->arrays[i] : no_memory(operation);
}

void stage_vector(struct operation *operation, int flags, void **buffer, int blocks, int count_width,
                  int displ_width, const void *counts, const void **displs, MPI_Datatype *type)
{
    struct strided *strided = strided_of(operation, flags, *buffer);
    if (is_refused(operation, strided, *type))
        return;
    for (int i = 0; UNLIKELY(checks_bounds) && *buffer != MPI_IN_PLACE && i < blocks; i++) {
        struct known known;
        const int64_t extent = know(*type, &known) ? known.extent : 0;
        const char *place = (char *)*buffer + number_at(*displs, displ_width, i) * extent;
        check_bounds(operation, place, number_at(counts, count_width, i), *type);
    }
    if (strided != NULL) {
        stage_strided(operation, partly(flags), strided, buffer);
        return;
    }
    struct known known;
    if (passes(*type) || *buffer == MPI_IN_PLACE ||
        (!(flags & PACKED) && are_small(blocks, count_width, counts, type, 0)) || !know(*type, &known) ||
        known.flags & CONTIGUOUS || known.dense == 0)
        return;
    struct place *place = calloc((size_t)blocks, sizeof *place);
    void *starts = substitute(operation, (size_t)blocks * (size_t)displ_width);
    if (place == NULL || starts == NULL) {
        no_memory(operation);
        free(place);
        return;
    }
    bool reachable = true;
    int64_t start = 0;
    for (int i = 0; i < blocks; i++) {
        const int64_t count = number_at(counts, count_width, i);
        reachable = reachable && fits(start, displ_width);
        place[i] = (struct place){*type, known, count, number_at(*displs, displ_width, i) * known.extent};
        put_number(starts, displ_width, i, start);
        start += count;
    }
    if (reachable && stage_places(operation, flags, buffer, place, blocks)) {
        *type = known.dense;
        *displs = starts;
    }
    free(place);
}

void stage_types(struct operation *operation, int flags, void **buffer, int blocks, int count_width,
                 int displ_width, const void *counts, const void **displs, const MPI_Datatype **types)
{
    if (*buffer == MPI_IN_PLACE)
        return;
    struct strided *strided = strided_of(operation, flags, *buffer);
    for (int i = 0; UNLIKELY(checks_bounds) && i < blocks; i++)
        check_bounds(operation, (char *)*buffer + number_at(*displs, displ_width, i),
                     number_at(counts, count_width, i), (*types)[i]);
    for (int i = 0; i < blocks; i++)
        if (is_refused(operation, strided, (*types)[i]))
            return;
    if (strided != NULL) {
        stage_strided(operation, partly(flags), strided, buffer);
        return;
    }
    if (!(flags & PACKED) && are_small(blocks, count_width, counts, *types, 1))
        return;
    struct place *place = calloc((size_t)blocks, sizeof *place);
    void *starts = substitute(operation, (size_t)blocks * (size_t)displ_width);
    MPI_Datatype *dense = substitute(operation, (size_t)blocks * sizeof *dense);
    if (place == NULL || starts == NULL || dense == NULL) {
        no_memory(operation);
        free(place);
        return;
    }
    bool readable = true;
    int64_t start = 0;
    for (int i = 0; i < blocks && readable; i++) {
        const int64_t count = number_at(counts, count_width, i);
        place[i] =
            (struct place){.type = (*types)[i], .count = count, .offset = number_at(*displs, displ_width, i)};
        put_number(starts, displ_width, i, start);
        dense[i] = place[i].type;
        if (count == 0)
            continue;
        readable =
            fits(start, displ_width) && know(place[i].type, &place[i].known) && place[i].known.dense != 0;
        dense[i] = place[i].known.dense;
        start += count * place[i].known.size;
    }
    if (readable && stage_places(operation, flags, buffer, place, blocks)) {
        *displs = starts;
        *types = dense;
    }
    free(place);
}
