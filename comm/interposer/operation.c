#include "operation.h"

#include "ask.h"
#include "door.h"
#include "frame.h"
#include "pool.h"
#include "requests.h"

#include <stdlib.h>
#include <string.h>

static struct part *parts_of(struct stage *stage)
{
    return stage->many != NULL ? stage->many : &stage->one;
}

static void move(struct stage *stage, bool unpack)
{
    const struct part *part = parts_of(stage);
    for (int i = 0; i < stage->parts; i++)
        run_program(unpack, stage->block + part[i].offset, part[i].memory, part[i].program);
}

static void load(struct stage *stage)
{
    if (stage->python != NULL)
        ask_load(stage->python);
    else if (stage->block != NULL)
        move(stage, false);
}

/* A short message ends anywhere in the layout: fill up with what the buffer holds already. */
static void fill_up(struct stage *stage, int64_t received)
{
    char *message = take_block(received);
    if (message == NULL)
        return;
    memcpy(message, stage->block, (size_t)received);
    move(stage, false);
    memcpy(stage->block, message, (size_t)received);
    give_block_back(message);
}

/* How many bytes of a stage MPI has written. */
static int64_t received_bytes(const struct operation *operation, const MPI_Status *status)
{
    const int64_t all = operation->receive.nbytes;
    if (!operation->message || status == NULL)
        return all;
    int cancelled = 0;
    next.Test_cancelled(status, &cancelled);
    if (cancelled)
        return 0;
    MPI_Count received = 0;
    if (next.Get_elements_x(status, constants.byte, &received) != MPI_SUCCESS || received == MPI_UNDEFINED)
        return all;
    return received < all ? received : all;
}

static void store(struct operation *operation, const MPI_Status *status)
{
    struct stage *stage = &operation->receive;
    if (stage->block == NULL && stage->python == NULL)
        return;
    const int64_t received = received_bytes(operation, status);
    if (received == 0 && stage->nbytes > 0)
        return;
    if (stage->python != NULL) {
        ask_store(stage->python, operation->fills ? stage->nbytes : received);
        return;
    }
    if (received < stage->nbytes && !operation->fills)
        fill_up(stage, received);
    move(stage, true);
}

/* Whether the same memory is sent and received into. */
static bool is_one(const struct operation *operation)
{
    return operation->send.block == operation->receive.block &&
           operation->send.python == operation->receive.python;
}

static void release_stage(struct stage *stage)
{
    struct part *part = parts_of(stage);
    for (int i = 0; i < stage->parts; i++)
        give_back(part[i].program);
    free(stage->many);
    if (stage->block != NULL)
        give_block_back(stage->block);
    drop_object(stage->python);
    memset(stage, 0, sizeof *stage);
}

void release(struct operation *operation)
{
    if (is_one(operation))
        memset(&operation->receive, 0, sizeof operation->receive);
    release_stage(&operation->send);
    release_stage(&operation->receive);
    for (size_t i = 0; i < sizeof operation->arrays / sizeof *operation->arrays; i++)
        free(operation->arrays[i]);
    drop_object(operation->owner);
    drop_object(operation->behind);
}

bool is_staged(const struct operation *operation)
{
    return operation->send.block != NULL || operation->send.python != NULL ||
           operation->receive.block != NULL || operation->receive.python != NULL;
}

static void load_all(struct operation *operation)
{
    load(&operation->send);
    if (operation->fills && !is_one(operation))
        load(&operation->receive);
}

int begin(struct operation *operation)
{
    if (operation->special) {
        operation->owner = current->owner;
        current->owner = NULL;
        current = NULL;
    }
    if (operation->refused) {
        release(operation);
        return MPI_ERR_BUFFER;
    }
    if (operation->form != PERSISTENT)
        load_all(operation);
    return MPI_SUCCESS;
}

int end(struct operation *operation, int code, const MPI_Status *status)
{
    if (code == MPI_SUCCESS)
        store(operation, status);
    release(operation);
    return code;
}

int started(struct operation *operation, int code, MPI_Request *request)
{
    if (code == MPI_SUCCESS && operation->form == NONBLOCKING && is_shared(*request)) {
        /* Complete, and not to be told from others by its request: another thread's could find it, and this
         * one would not wait until its data is in place. A message with it has brought nothing. */
        if (!operation->message)
            store(operation, NULL);
        release(operation);
        return MPI_SUCCESS;
    }
    const bool keeps = is_staged(operation) || operation->owner != NULL || operation->behind != NULL ||
                       operation->arrays[0] != NULL;
    struct operation *kept = code == MPI_SUCCESS && keeps ? malloc(sizeof *kept) : NULL;
    if (kept == NULL && code == MPI_SUCCESS && keeps)
        /* MPI uses the stages: they stay. */
        return MPI_ERR_NO_MEM;
    if (kept == NULL) {
        release(operation);
        return code;
    }
    operation->request = *request;
    operation->home = request;
    operation->active = operation->form == NONBLOCKING;
    *kept = *operation;
    enroll(kept);
    return MPI_SUCCESS;
}

void reload(struct operation *operation)
{
    load_all(operation);
    operation->stored = false;
}

bool advance(struct operation *operation)
{
    return operation->behind == NULL || !operation->active || ask_advance(operation->behind);
}

bool unpack(struct operation *operation, const MPI_Status *status)
{
    bool well = true;
    if (operation->active && !operation->stored) {
        well = operation->behind == NULL || ask_finish(operation->behind);
        store(operation, status);
        operation->stored = true;
    }
    return well;
}
