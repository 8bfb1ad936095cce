/* Staging memory, used again instead of being allocated for each message. */
#ifndef ROUNDELAY_POOL_H
#define ROUNDELAY_POOL_H

#include <stdint.h>

/* At least `nbytes` bytes; NULL where there is no memory. */
char *take_block(int64_t nbytes);
void give_block_back(char *block);

#endif
