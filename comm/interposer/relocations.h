/* Functions that an extension module calls, replaced after it was loaded. */
#ifndef ROUNDELAY_RELOCATIONS_H
#define ROUNDELAY_RELOCATIONS_H

#include <stdbool.h>
#include <stddef.h>

struct redirection {
    const char *name;
    /* NULL where the function is only looked up. */
    void *replacement;
    /* Where the address goes that the module called before; NULL where it has none. */
    void **original;
};

/* Redirect the calls of the module in `file`; how many of its relocations were changed, -1 if it is not
 * loaded. */
int redirect(const char *file, const struct redirection *redirections, size_t count);

/* Let the module call what it called before, or the replacements again. */
void use_replacements(bool replaced);

#endif
