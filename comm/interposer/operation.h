/* An operation with staged buffers: what is packed before it, and unpacked when it is complete. */
#ifndef ROUNDELAY_OPERATION_H
#define ROUNDELAY_OPERATION_H

#include "abi.h"
#include "layouts.h"

/* A stretch of packed memory and the memory with gaps that it is packed from. */
struct part {
    struct program *program;
    char *memory;
    int64_t offset;
};

/* Contiguous memory in the place of a buffer. */
struct stage {
    char *block;
    int64_t nbytes;
    int parts;
    struct part one;
    /* Where there are several; else `one`. */
    struct part *many;
    /* Of memory that only Python reaches: its object with `load` and `store`. */
    void *python;
};

enum form { BLOCKING, NONBLOCKING, PERSISTENT };

struct operation {
    enum form form;
    /* Whether a method of ours has given the call more than its arguments. */
    bool special;
    /* Whether the status says how many bytes were received. */
    bool message;
    /* Whether MPI may write parts of what it receives into, and is to leave the rest as it was. */
    bool fills;
    /* Whether something is wrong that the program will be told. */
    bool refused;
    bool active, stored, claimed;
    MPI_Request request;
    /* Where MPI wrote the request, in an object of mpi4py's; NULL once that is gone. */
    MPI_Request *home;
    /* How many objects of mpi4py's were made of that one. */
    int copies;
    struct stage send, receive;
    /* Arrays in the place of the program's. */
    void *arrays[4];
    /* Python objects: what is kept until the end, and what advances an operation behind this one. */
    void *owner, *behind;
    /* That whose memory is received into, and which mpi4py's request keeps. */
    void *borrowed;
    struct operation *next;
};

/* Pack what is sent. */
int begin(struct operation *operation);
/* Unpack what was received by a blocking call that returned `code`, and give the stages back. */
int end(struct operation *operation, int code, const MPI_Status *status);
/* Register a nonblocking or persistent operation under the request that MPI has made. */
int started(struct operation *operation, int code, MPI_Request *request);

/* Pack what a persistent operation sends, before it starts. */
void reload(struct operation *operation);

/* Go on with what Python runs behind an operation; whether nothing of that is left to do. */
bool advance(struct operation *operation);
/* Unpack what a complete operation has received, unless that is done; false where what Python ran behind it
 * has gone wrong. */
bool unpack(struct operation *operation, const MPI_Status *status);
/* Give everything back. */
void release(struct operation *operation);
bool is_staged(const struct operation *operation);

#endif
