/* Completion of requests, in one, any, some and all: what was received is unpacked before the call returns.
 */
#include "ask.h"
#include "door.h"
#include "requests.h"

#include <sched.h>
#include <stdlib.h>

enum { FEW = 64 };

/* The operations behind the requests of one call, and statuses where the program wants none. */
struct batch {
    int count;
    /* Whether there are any. */
    bool any;
    struct operation **operations;
    MPI_Status *statuses;
    MPI_Request *hidden;
    struct operation *few[FEW];
    MPI_Status few_statuses[FEW];
    MPI_Request few_hidden[FEW];
    void *memory;
};

static bool is_idle(void)
{
    return atomic_load_explicit(&operations_under_way, memory_order_relaxed) == 0 &&
           atomic_load_explicit(&orphans, memory_order_relaxed) == 0;
}

/* Complete an operation whose request is complete. */
static int settle(struct operation *operation, const MPI_Status *status)
{
    const bool well = unpack(operation, status);
    operation->active = false;
    if (operation->form == PERSISTENT)
        unclaim(operation);
    else
        dismiss(operation);
    return well ? MPI_SUCCESS : MPI_ERR_OTHER;
}

/* After an error: forget what was received. */
static void abandon(struct operation *operation)
{
    operation->stored = true;
    settle(operation, NULL);
}

static int complete_one(MPI_Request *request, int *flag, MPI_Status *status, bool waits)
{
    struct operation *operation = claim(*request);
    if (operation == NULL)
        return waits ? next.Wait(request, status) : next.Test(request, flag, status);
    while (!advance(operation)) {
        if (!waits) {
            unclaim(operation);
            *flag = 0;
            return MPI_SUCCESS;
        }
        sched_yield();
    }
    MPI_Status own;
    if (status == MPI_STATUS_IGNORE)
        status = &own;
    int done = 1;
    const int code = waits ? next.Wait(request, status) : next.Test(request, &done, status);
    if (flag != NULL)
        *flag = done;
    if (code != MPI_SUCCESS && (operation->form == PERSISTENT || *request == constants.null_request))
        abandon(operation);
    else if (code != MPI_SUCCESS)
        /* MPI goes on with it, and with its memory. */
        unclaim(operation);
    else if (done)
        return settle(operation, status);
    else
        unclaim(operation);
    return code;
}

int roundelay_Wait(MPI_Request *request, MPI_Status *status)
{
    MPI_Status own;
    SEE_STATUS(status, &own);
    ENTER(.function = FUNCTION_Wait, .requests = request, .count = 1, .waits = WAITS_FOR_ALL,
          .status = status);
    return leave(is_idle() ? next.Wait(request, status) : complete_one(request, NULL, status, true));
}

int roundelay_Test(MPI_Request *request, int *flag, MPI_Status *status)
{
    MPI_Status own;
    SEE_STATUS(status, &own);
    ENTER(.function = FUNCTION_Test, .requests = request, .count = 1, .waits = LOOKS, .status = status);
    return leave(is_idle() ? next.Test(request, flag, status) : complete_one(request, flag, status, false));
}

/* The request stays: what it received is unpacked now, and not once more when the program completes it. */
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

/* Claim the operations of all requests; an error where there is no memory, and MPI must not go on alone. */
static int gather(struct batch *batch, int count, const MPI_Request *requests, MPI_Status **statuses)
{
    batch->count = count;
    batch->any = false;
    batch->memory = NULL;
    if (is_idle())
        return MPI_SUCCESS;
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

static void let_go(struct batch *batch)
{
    for (int i = 0; i < batch->count; i++)
        if (batch->operations[i] != NULL)
            unclaim(batch->operations[i]);
    free(batch->memory);
}

static void unpack_at(const struct batch *batch, int i, const MPI_Status *status)
{
    if (batch->operations[i] != NULL)
        unpack(batch->operations[i], status);
}

static int settle_at(struct batch *batch, int i, const MPI_Status *status, bool well)
{
    struct operation *operation = batch->operations[i];
    batch->operations[i] = NULL;
    if (operation != NULL && well)
        return settle(operation, status);
    if (operation != NULL)
        abandon(operation);
    return MPI_SUCCESS;
}

/* Keep the first error. */
static void note(int *outcome, int code)
{
    if (*outcome == MPI_SUCCESS)
        *outcome = code;
}

static bool is_unfinished(struct operation *operation)
{
    return operation != NULL && !advance(operation);
}

/* Advance all operations that Python runs, side by side because ranks may wait for them in different orders;
 * how many have something left to do. */
static int unfinished(const struct batch *batch)
{
    int left = 0;
    for (int i = 0; i < batch->count; i++)
        left += is_unfinished(batch->operations[i]);
    return left;
}

/* Requests with null ones in the places of those that have something left to do. */
static int hide(struct batch *batch, const MPI_Request *requests)
{
    int hidden = 0;
    for (int i = 0; i < batch->count; i++) {
        const bool hides = is_unfinished(batch->operations[i]);
        batch->hidden[i] = hides ? constants.null_request : requests[i];
        hidden += hides;
    }
    return hidden;
}

static void reveal(const struct batch *batch, MPI_Request *requests, int changed)
{
    requests[changed] = batch->hidden[changed];
}

static int complete_all(int count, MPI_Request *requests, int *flag, MPI_Status *statuses, bool waits)
{
    struct batch batch;
    const int gathered = gather(&batch, count, requests, &statuses);
    if (gathered != MPI_SUCCESS)
        return gathered;
    if (!batch.any)
        return waits ? next.Waitall(count, requests, statuses)
                     : next.Testall(count, requests, flag, statuses);
    while (unfinished(&batch) > 0) {
        if (!waits) {
            let_go(&batch);
            *flag = 0;
            return MPI_SUCCESS;
        }
        sched_yield();
    }
    int done = 1;
    const int code =
        waits ? next.Waitall(count, requests, statuses) : next.Testall(count, requests, &done, statuses);
    int outcome = code;
    if (flag != NULL)
        *flag = done;
    for (int i = 0; i < count && (code != MPI_SUCCESS || done); i++) {
        /* With any other error the statuses say nothing. */
        const int error = code == MPI_ERR_IN_STATUS ? statuses[i].MPI_ERROR : code;
        if (code != MPI_SUCCESS && code != MPI_ERR_IN_STATUS && requests[i] != constants.null_request)
            continue;
        if (error != MPI_ERR_PENDING)
            note(&outcome, settle_at(&batch, i, &statuses[i], error == MPI_SUCCESS));
    }
    let_go(&batch);
    return outcome;
}

int roundelay_Waitall(int count, MPI_Request *requests, MPI_Status *statuses)
{
    MPI_Status few[FEW];
    if (count <= FEW)
        SEE_STATUS(statuses, few);
    ENTER(.function = FUNCTION_Waitall, .requests = requests, .count = count, .waits = WAITS_FOR_ALL,
          .status = statuses);
    return leave(is_idle() ? next.Waitall(count, requests, statuses)
                           : complete_all(count, requests, NULL, statuses, true));
}

int roundelay_Testall(int count, MPI_Request *requests, int *flag, MPI_Status *statuses)
{
    MPI_Status few[FEW];
    if (count <= FEW)
        SEE_STATUS(statuses, few);
    ENTER(.function = FUNCTION_Testall, .requests = requests, .count = count, .waits = LOOKS,
          .status = statuses);
    return leave(is_idle() ? next.Testall(count, requests, flag, statuses)
                           : complete_all(count, requests, flag, statuses, false));
}

static int complete_any(int count, MPI_Request *requests, int *index, int *flag, MPI_Status *status,
                        bool waits)
{
    struct batch batch;
    const int gathered = gather(&batch, count, requests, NULL);
    if (gathered != MPI_SUCCESS)
        return gathered;
    if (!batch.any)
        return waits ? next.Waitany(count, requests, index, status)
                     : next.Testany(count, requests, index, flag, status);
    MPI_Status own;
    if (status == MPI_STATUS_IGNORE)
        status = &own;
    int code, done;
    for (;;) {
        const int hidden = hide(&batch, requests);
        done = 1;
        code = waits && hidden == 0 ? next.Waitany(count, batch.hidden, index, status)
                                    : next.Testany(count, batch.hidden, index, &done, status);
        /* Where others go on, that none of these is active does not count. */
        if (hidden > 0 && code == MPI_SUCCESS && done && *index == MPI_UNDEFINED)
            done = 0;
        if (code != MPI_SUCCESS || done || !waits)
            break;
        sched_yield();
    }
    if (flag != NULL)
        *flag = done;
    if (*index != MPI_UNDEFINED && (code != MPI_SUCCESS || done)) {
        reveal(&batch, requests, *index);
        note(&code, settle_at(&batch, *index, status, code == MPI_SUCCESS));
    }
    let_go(&batch);
    return code;
}

int roundelay_Waitany(int count, MPI_Request *requests, int *index, MPI_Status *status)
{
    MPI_Status own;
    SEE_STATUS(status, &own);
    ENTER(.function = FUNCTION_Waitany, .requests = requests, .count = count, .waits = WAITS_FOR_ANY,
          .status = status, .indices = index);
    return leave(is_idle() ? next.Waitany(count, requests, index, status)
                           : complete_any(count, requests, index, NULL, status, true));
}

int roundelay_Testany(int count, MPI_Request *requests, int *index, int *flag, MPI_Status *status)
{
    MPI_Status own;
    SEE_STATUS(status, &own);
    ENTER(.function = FUNCTION_Testany, .requests = requests, .count = count, .waits = LOOKS,
          .status = status, .indices = index);
    return leave(is_idle() ? next.Testany(count, requests, index, flag, status)
                           : complete_any(count, requests, index, flag, status, false));
}

static int complete_some(int count, MPI_Request *requests, int *found, int *indices, MPI_Status *statuses,
                         bool waits)
{
    struct batch batch;
    const int gathered = gather(&batch, count, requests, &statuses);
    if (gathered != MPI_SUCCESS)
        return gathered;
    if (!batch.any)
        return waits ? next.Waitsome(count, requests, found, indices, statuses)
                     : next.Testsome(count, requests, found, indices, statuses);
    int code;
    for (;;) {
        const int hidden = hide(&batch, requests);
        code = waits && hidden == 0 ? next.Waitsome(count, batch.hidden, found, indices, statuses)
                                    : next.Testsome(count, batch.hidden, found, indices, statuses);
        if (hidden > 0 && code == MPI_SUCCESS && *found == MPI_UNDEFINED)
            *found = 0;
        if (code != MPI_SUCCESS || *found != 0 || !waits)
            break;
        sched_yield();
    }
    int outcome = code;
    for (int i = 0; i < (*found == MPI_UNDEFINED ? 0 : *found); i++) {
        const int error = code == MPI_SUCCESS ? MPI_SUCCESS : statuses[i].MPI_ERROR;
        reveal(&batch, requests, indices[i]);
        note(&outcome, settle_at(&batch, indices[i], &statuses[i], error == MPI_SUCCESS));
    }
    let_go(&batch);
    return outcome;
}

int roundelay_Waitsome(int count, MPI_Request *requests, int *found, int *indices, MPI_Status *statuses)
{
    MPI_Status few[FEW];
    if (count <= FEW)
        SEE_STATUS(statuses, few);
    ENTER(.function = FUNCTION_Waitsome, .requests = requests, .count = count, .waits = WAITS_FOR_ANY,
          .status = statuses, .indices = indices, .found = found);
    return leave(is_idle() ? next.Waitsome(count, requests, found, indices, statuses)
                           : complete_some(count, requests, found, indices, statuses, true));
}

int roundelay_Testsome(int count, MPI_Request *requests, int *found, int *indices, MPI_Status *statuses)
{
    MPI_Status few[FEW];
    if (count <= FEW)
        SEE_STATUS(statuses, few);
    ENTER(.function = FUNCTION_Testsome, .requests = requests, .count = count, .waits = LOOKS,
          .status = statuses, .indices = indices, .found = found);
    return leave(is_idle() ? next.Testsome(count, requests, found, indices, statuses)
                           : complete_some(count, requests, found, indices, statuses, false));
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
