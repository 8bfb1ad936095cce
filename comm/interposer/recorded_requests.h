/* Requests that the program has not completed yet, in the record. */
#ifndef ROUNDELAY_RECORDED_REQUESTS_H
#define ROUNDELAY_RECORDED_REQUESTS_H

#include "record.h"

/* Enter a request; its handle stands in for nothing else while it is there. */
void add_request(struct record *record, MPI_Request handle, const struct recorded_request *facts);
/* NULL for one that is not known. */
struct recorded_request *find_request(struct record *record, MPI_Request handle);
void remove_request(struct recorded_request *request);

#endif
