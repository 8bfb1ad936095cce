/* A process that its MPI library ends inside a call: it says where that is, and gives the watcher a moment.
 */
#ifndef ROUNDELAY_LAST_WORDS_H
#define ROUNDELAY_LAST_WORDS_H

/* From now on, before the library ends this process or the job inside a call, raise the signal, whose handler
 * writes a stack, and tell the watcher through its connection, so that it can look at the others: mpiexec
 * kills them next. */
void prepare_last_words(int signal, int connection);

#endif
