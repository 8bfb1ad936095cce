/* The status of requests that stay: received data is unpacked now, and not once more when the program
 * completes them. */
#include "batch.h"
#include "door.h"

int roundelay_Request_get_status(MPI_Request request, int *flag, MPI_Status *status)
{
    ENTER(.function = FUNCTION_Request_get_status, .waits = LOOKS);
    struct operation *operation = is_idle() ? NULL : claim(request);
    if (operation == NULL)
        return leave(next.Request_get_status(request, flag, status));
    MPI_Status own;
    if (status == MPI_STATUS_IGNORE)
        status = &own;
    int code = MPI_SUCCESS;
    *flag = 0;
    if (advance(operation)) {
        code = next.Request_get_status(request, flag, status);
        if (code == MPI_SUCCESS && *flag)
            unpack(operation, status);
    }
    unclaim(operation);
    return leave(code);
}

static void unpack_at(const struct batch *batch, int i, const MPI_Status *status)
{
    if (batch->operations[i] != NULL)
        unpack(batch->operations[i], status);
}

int roundelay_Request_get_status_all(int count, const MPI_Request *requests, int *flag, MPI_Status *statuses)
{
    ENTER(.function = FUNCTION_Request_get_status_all, .waits = LOOKS);
    struct batch batch;
    const int gathered = gather(&batch, count, requests, &statuses);
    if (gathered != MPI_SUCCESS)
        return leave(gathered);
    if (!batch.any)
        return leave(next.Request_get_status_all(count, requests, flag, statuses));
    int code = MPI_SUCCESS;
    *flag = 0;
    if (unfinished(&batch) == 0) {
        code = next.Request_get_status_all(count, requests, flag, statuses);
        for (int i = 0; code == MPI_SUCCESS && *flag && i < count; i++)
            unpack_at(&batch, i, &statuses[i]);
    }
    let_go(&batch);
    return leave(code);
}

int roundelay_Request_get_status_any(int count, const MPI_Request *requests, int *index, int *flag,
                                     MPI_Status *status)
{
    ENTER(.function = FUNCTION_Request_get_status_any, .waits = LOOKS);
    struct batch batch;
    const int gathered = gather(&batch, count, requests, NULL);
    if (gathered != MPI_SUCCESS)
        return leave(gathered);
    if (!batch.any)
        return leave(next.Request_get_status_any(count, requests, index, flag, status));
    MPI_Status own;
    if (status == MPI_STATUS_IGNORE)
        status = &own;
    const int hidden = hide(&batch, requests);
    const int code = next.Request_get_status_any(count, batch.hidden, index, flag, status);
    if (code == MPI_SUCCESS && *flag && *index == MPI_UNDEFINED && hidden > 0)
        *flag = 0;
    if (code == MPI_SUCCESS && *flag && *index != MPI_UNDEFINED)
        unpack_at(&batch, *index, status);
    let_go(&batch);
    return leave(code);
}

int roundelay_Request_get_status_some(int count, const MPI_Request *requests, int *found, int *indices,
                                      MPI_Status *statuses)
{
    ENTER(.function = FUNCTION_Request_get_status_some, .waits = LOOKS);
    struct batch batch;
    const int gathered = gather(&batch, count, requests, &statuses);
    if (gathered != MPI_SUCCESS)
        return leave(gathered);
    if (!batch.any)
        return leave(next.Request_get_status_some(count, requests, found, indices, statuses));
    const int hidden = hide(&batch, requests);
    const int code = next.Request_get_status_some(count, batch.hidden, found, indices, statuses);
    if (code == MPI_SUCCESS && *found == MPI_UNDEFINED && hidden > 0)
        *found = 0;
    for (int i = 0; code == MPI_SUCCESS && *found != MPI_UNDEFINED && i < *found; i++)
        unpack_at(&batch, indices[i], &statuses[i]);
    let_go(&batch);
    return leave(code);
}
