/* Faults that the sanitizers must report before tests.sanitized trusts their silence. */

#include <limits.h>
#include <stdlib.h>

int overflow(int one)
{
    volatile int sum = INT_MAX;
    sum += one;
    return sum;
}

int overrun(int one)
{
    volatile char *block = malloc(1);
    if (block == NULL)
        return 0;
    block[one] = 0;
    const int value = block[one];
    free((void *)block);
    return value;
}
