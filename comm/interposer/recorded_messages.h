/* What calls say of messages and collectives, and what this rank has exchanged with each other one. */
#ifndef ROUNDELAY_RECORDED_MESSAGES_H
#define ROUNDELAY_RECORDED_MESSAGES_H

#include "record.h"
#include "recorded_comms.h"
#include "seen.h"

/* Describe a call on a communicator that begins, and count what it sends. */
void begin_operation(struct record *record, struct recorded_call *call, const struct seen *seen,
                     const struct known_comm *comm);
/* The message's number among those that are counted together. */
uint32_t count_sent(struct record *record, int32_t dest, uint8_t class, int64_t bytes);
/* A message that was cancelled does not count. */
void take_back(struct record *record, int32_t dest, uint8_t class, int64_t bytes);

/* The call that completes messages, as their ends have it. */
struct completion {
    struct lane *lane;
    uint64_t entered, left;
    /* Whether it waits for more than messages. */
    bool mixed;
};

void add_end(const struct completion *completion, const struct recorded_message *end);
/* The same of a message that has arrived; MPI's status says from where, if the program did not. */
void end_receive(struct record *record, const struct completion *completion, const struct known_comm *comm,
                 struct recorded_message end, uint64_t waited, const MPI_Status *status);
/* A message that a call itself has received. */
void receive(struct record *record, struct recorded_call *call, const struct known_comm *comm,
             uint64_t waited, const MPI_Status *status);

#endif
