/* The record: what the ranks of a node do in MPI, in memory that a watcher reads while they run, hang or are
 * dead. One thread writes each lane, and nothing in it waits for anything.
 *
 * `comm/monitor/memory.py` reads these structures; RECORD_VERSION changes with them.
 */
#ifndef ROUNDELAY_RECORD_H
#define ROUNDELAY_RECORD_H

#include "functions.h"

#include <stdatomic.h>

enum {
    RECORD_VERSION = 3,
    LANES = 8,
    RECORDED_CALLS = 1024,
    RECORDED_COMMS = 128,
    RECORDED_REQUESTS = 1024,
    RECORDED_MESSAGES = 1024,
    /* Messages of a pair of ranks are counted apart by communicator and tag, into these. */
    TAG_CLASSES = 8
};

/* Ranks that are none: no peer, any source, and one that this job does not number. */
enum { NO_RANK = -1, ANY_RANK = -2, UNKNOWN_RANK = -3 };
enum { ANY_CLASS = 255 };

/* One call, in the ring of its lane. Ranks are those of MPI_COMM_WORLD. */
struct recorded_call {
    uint32_t number;
    /* Among the collectives of its communicator, from 1; 0 for other calls. */
    uint32_t sequence;
    /* In ticks; `left` is 0 while the call is under way. */
    uint64_t entered, left;
    /* Ticks that its thread had spent in calls before. */
    uint64_t inside;
    /* Of the block that each rank gives; -1 where ranks give different ones. */
    int64_t bytes;
    uint32_t comm;
    /* Of what all ranks of a collective have to agree on. */
    uint32_t signature;
    /* Whom it sends to, or the root; and whom it receives from. */
    int32_t dest, source;
    int32_t tag;
    uint16_t function;
    /* The error that it returned. */
    uint16_t error;
    uint8_t sent_class, received_class;
    /* Requests that it completes, all or any of them. */
    uint8_t waits_for_all, waits_for_any;
    uint8_t lane;
    /* Whether it has itself sent and received a message, which has this number among those of the pair of
     * ranks and class, at this end. */
    uint8_t has_sent, has_received, spare[5];
    uint32_t sent_ordinal, received_ordinal;
    int32_t received_tag;
};

/* One end of a message that a request was for, in the ring of the lane whose call has completed it. */
struct recorded_message {
    uint32_t number;
    /* Among those of this pair of ranks and class, at this end. */
    uint32_t ordinal;
    /* When the message was sent, or its receive posted, and when the call that completed that began and
     * ended. */
    uint64_t started, entered, left;
    /* Where it is received, of the buffer. */
    int64_t bytes;
    uint32_t comm;
    int32_t tag, peer;
    /* The one that started it. */
    uint16_t function;
    uint8_t class, sent;
    /* Whether the call has waited for something else, too. */
    uint8_t mixed;
    uint8_t spare[7];
};

/* A thread that calls MPI. */
struct lane {
    /* Calls begun and ended. One is under way where they differ. */
    _Atomic uint32_t begun, ended;
    /* Of the system; 0 where no thread has the lane. */
    _Atomic uint32_t thread;
    /* Calls that were no mere look whether something has come. */
    _Atomic uint32_t advanced;
    /* Ends of messages whose requests it has completed. */
    _Atomic uint32_t ends;
    uint32_t spare;
    struct recorded_call calls[RECORDED_CALLS];
    struct recorded_message messages[RECORDED_MESSAGES];
};

/* A communicator. Its members are a set of bits behind the peers. */
struct recorded_comm {
    /* The same on all its ranks; 0 where the place is free. */
    _Atomic uint32_t id;
    uint32_t size;
    /* Collectives that this rank has begun. */
    _Atomic uint32_t begun;
    uint32_t spare;
};

/* What is known of a request. */
struct request_facts {
    uint64_t started;
    int64_t bytes;
    uint32_t comm, sequence;
    int32_t dest, source;
    int32_t tag;
    /* Of the message that it sends. */
    uint32_t ordinal;
    uint16_t function;
    uint8_t sent_class, received_class;
    /* Whether it is under way; the lane + 1 that waits for it. */
    uint8_t active, awaited;
    uint8_t receives, collective, persistent;
    uint8_t spare[7];
};

/* A request that the program has not completed yet. */
struct recorded_request {
    /* 0 where the place is free. */
    _Atomic uint64_t handle;
    struct request_facts facts;
};

/* What this rank has exchanged with another. */
struct recorded_peer {
    _Atomic uint32_t sent[TAG_CLASSES], received[TAG_CLASSES];
    _Atomic uint64_t bytes_sent, bytes_received;
    /* Ticks spent in calls that received from it, and how many there were. */
    _Atomic uint64_t waited, waits;
};

struct record {
    uint32_t version;
    int32_t rank, ranks;
    uint32_t process;
    /* Ticks and nanoseconds of the monotonic clock at the start. */
    uint64_t ticks, nanoseconds;
    /* What did not fit: threads, communicators, requests. */
    _Atomic uint32_t lost_threads, lost_comms, lost_requests;
    /* MPI_Finalize: 1 inside, 2 after. */
    _Atomic uint32_t finalizing;
    /* Messages received of which MPI did not say from whom, or with which tag. */
    _Atomic uint32_t unnamed;
    uint32_t spare;
    struct lane lanes[LANES];
    struct recorded_comm comms[RECORDED_COMMS];
    struct recorded_request requests[RECORDED_REQUESTS];
    struct recorded_peer peers[];
};

/* Begin to write to a file, which is made as long as that takes; 0, or the number of an error. A process has
 * one record. All ranks of the communicator that is watched begin theirs now. */
int start_record(int file, int rank, int ranks, MPI_Comm watched);
/* Stop for a while, or go on. */
void go_on_recording(bool on);

/* Whether this thread is inside a call that an observer has seen begin. */
bool is_inside_call(void);

/* A time stamp, in ticks of the processor where those are at hand. */
uint64_t read_ticks(void);

#endif
