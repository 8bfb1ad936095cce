/* Requests that the program has not completed yet, in the record, and what calls do with them. */
#ifndef ROUNDELAY_RECORDED_REQUESTS_H
#define ROUNDELAY_RECORDED_REQUESTS_H

#include "recorded_messages.h"
#include "seen.h"

/* Those that a call was given and that are known, and their places among its arguments. */
struct given_requests {
    struct recorded_request *requests[RECORDED_REQUESTS];
    int places[RECORDED_REQUESTS];
    int count;
    /* Whether some are of no message. */
    bool mixed;
};

/* Find the requests of a call that may complete them. */
void begin_requests(struct record *record, struct given_requests *given, struct recorded_call *call,
                    const struct seen *seen);
/* Note what a call has done with its requests; whether any of them is complete now. */
bool end_requests(struct record *record, const struct given_requests *given, const struct seen *seen,
                  const struct completion *completion, int code);
/* Enter the request that a call has made; its handle stands in for nothing else while it is there. */
void enter_request(struct record *record, const struct recorded_call *call, const struct seen *seen);

#endif
