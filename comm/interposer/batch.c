#include "batch.h"

#include <stdlib.h>

int gather_claimed(struct batch *batch, const MPI_Request *requests, MPI_Status **statuses)
{
    const int count = batch->count;
    batch->operations = batch->few;
    batch->statuses = batch->few_statuses;
    batch->hidden = batch->few_hidden;
    if (count > FEW) {
        const size_t each = sizeof(struct operation *) + sizeof(MPI_Status) + sizeof(MPI_Request);
        batch->memory = malloc((size_t)count * each);
        if (batch->memory == NULL)
            return MPI_ERR_NO_MEM;
        batch->operations = batch->memory;
        batch->statuses = (MPI_Status *)(batch->operations + count);
        batch->hidden = (MPI_Request *)(batch->statuses + count);
    }
    for (int i = 0; i < count; i++) {
        batch->operations[i] = claim(requests[i]);
        batch->any = batch->any || batch->operations[i] != NULL;
    }
    if (!batch->any)
        free(batch->memory);
    else if (statuses != NULL && *statuses == MPI_STATUSES_IGNORE)
        *statuses = batch->statuses;
    return MPI_SUCCESS;
}

void let_go(struct batch *batch)
{
    for (int i = 0; i < batch->count; i++)
        if (batch->operations[i] != NULL)
            unclaim(batch->operations[i]);
    free(batch->memory);
}

static bool is_unfinished(struct operation *operation)
{
    return operation != NULL && !advance(operation);
}

int unfinished(const struct batch *batch)
{
    int left = 0;
    for (int i = 0; i < batch->count; i++)
        left += is_unfinished(batch->operations[i]);
    return left;
}

int hide(struct batch *batch, const MPI_Request *requests)
{
    int hidden = 0;
    for (int i = 0; i < batch->count; i++) {
        const bool hides = is_unfinished(batch->operations[i]);
        batch->hidden[i] = hides ? constants.null_request : requests[i];
        hidden += hides;
    }
    return hidden;
}
