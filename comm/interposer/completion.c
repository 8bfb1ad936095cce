/* Completion of one request, any, some and all: received data is unpacked before the call returns. */
#include "batch.h"
#include "door.h"

#include <sched.h>

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
    ENTER(.function = FUNCTION_Test, .requests = request, .count = 1, .waits = LOOKS, .status = status,
          .flag = flag);
    return leave(is_idle() ? next.Test(request, flag, status) : complete_one(request, flag, status, false));
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
          .status = statuses, .flag = flag);
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
