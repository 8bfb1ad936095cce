/* Buffers that are staged: contiguous memory takes their place in a call. */
#ifndef ROUNDELAY_STAGING_H
#define ROUNDELAY_STAGING_H

#include "operation.h"

/* DESCRIBES: an array may be given as one instance of a datatype. A collective must have the same count on
 * all ranks. PACKED: what has gaps is never left to the library; MOVED: nor is what has none, if its datatype
 * is derived. */
enum { SENDS = 1, RECEIVES = 2, FILLS = 4, PACKED = 8, DESCRIBES = 16, MOVED = 32 };
/* Bytes of one count and of one displacement in the arrays of a call. */
#define WIDTHS(name) (int)sizeof(*name##_counts), (int)sizeof(*name##_displs)

/* A count or displacement in such an array. */
static inline int64_t number_at(const void *array, int width, int i)
{
    return width == sizeof(int) ? ((const int *)array)[i] : ((const int64_t *)array)[i];
}

/* Up to how many bytes the library's own datatype engine moves data: layouts that it walks with ease, and
 * others. */
struct limits {
    int64_t easy, other;
};
extern struct limits message_limits, packing_limits;

static inline bool is_left(const struct limits *limits, int64_t nbytes, bool easy)
{
    return nbytes <= (easy ? limits->easy : limits->other);
}

/* Whether the library moves a buffer of a message as it is. */
bool stays(const void *buffer, int64_t count, MPI_Datatype type);

/* Each changes the arguments of a call to those that MPI is given. */
int64_t stage_blocks(struct operation *operation, int flags, void **buffer, int64_t count, MPI_Datatype *type,
                     int blocks);
void stage_vector(struct operation *operation, int flags, void **buffer, int blocks, int count_width,
                  int displ_width, const void *counts, const void **displs, MPI_Datatype *type);
void stage_types(struct operation *operation, int flags, void **buffer, int blocks, int count_width,
                 int displ_width, const void *counts, const void **displs, const MPI_Datatype **types);
void stage_array(struct operation *operation, int flags, void **buffer);

#endif
