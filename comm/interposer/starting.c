/* Requests that a program starts and frees, and the end of MPI, before which all operations end. */
#include "ask.h"
#include "batch.h"
#include "door.h"

/* Persistent operations pack whenever they start. */
static void prepare(struct operation *operation)
{
    reload(operation);
    if (operation->behind != NULL)
        ask_start(operation->behind);
}

int roundelay_Start(MPI_Request *request)
{
    ENTER(.function = FUNCTION_Start, .requests = request, .count = 1, .waits = STARTS);
    struct operation *operation = is_idle() ? NULL : claim(*request);
    if (operation == NULL)
        return leave(next.Start(request));
    prepare(operation);
    const int code = next.Start(request);
    operation->active = code == MPI_SUCCESS;
    unclaim(operation);
    return leave(code);
}

int roundelay_Startall(int count, MPI_Request *requests)
{
    ENTER(.function = FUNCTION_Startall, .requests = requests, .count = count, .waits = STARTS);
    struct batch batch;
    const int gathered = gather(&batch, count, requests, NULL);
    if (gathered != MPI_SUCCESS)
        return leave(gathered);
    if (!batch.any)
        return leave(next.Startall(count, requests));
    for (int i = 0; i < count; i++)
        if (batch.operations[i] != NULL)
            prepare(batch.operations[i]);
    const int code = next.Startall(count, requests);
    for (int i = 0; i < count; i++)
        if (batch.operations[i] != NULL)
            batch.operations[i]->active = code == MPI_SUCCESS;
    let_go(&batch);
    return leave(code);
}

int roundelay_Request_free(MPI_Request *request)
{
    ENTER(.function = FUNCTION_Request_free, .requests = request, .count = 1, .waits = FREES);
    struct operation *operation = is_idle() ? NULL : claim(*request);
    if (operation == NULL)
        return leave(next.Request_free(request));
    if (operation->active && !operation->stored) {
        /* MPI must not forget a request whose data is yet to be unpacked: only the program does. */
        orphan(operation);
        *request = constants.null_request;
        return leave(MPI_SUCCESS);
    }
    const int code = next.Request_free(request);
    dismiss(operation);
    return leave(code);
}

int roundelay_Finalize(void)
{
    ENTER(.function = FUNCTION_Finalize);
    end_operations();
    return leave(next.Finalize());
}
