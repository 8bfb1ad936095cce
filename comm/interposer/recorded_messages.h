/* What calls say of messages and collectives, and what this rank has exchanged with each other one. */
#ifndef ROUNDELAY_RECORDED_MESSAGES_H
#define ROUNDELAY_RECORDED_MESSAGES_H

#include "record.h"
#include "recorded_comms.h"
#include "seen.h"

/* Describe a call on a communicator that begins, and count what it sends. */
void begin_operation(struct record *record, struct recorded_call *call, const struct seen *seen,
                     const struct known_comm *comm);
void count_sent(struct record *record, int32_t dest, uint8_t class, int64_t bytes);
/* A message that has arrived; MPI's status says from where, if the program did not. */
void end_receive(struct record *record, const struct known_comm *comm, int32_t source, uint8_t class,
                 int64_t bytes, uint64_t waited, const MPI_Status *status);

#endif
