#include "recorded_comms.h"

#include "door.h"
#include "forks.h"
#include "hash.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* More than RECORDED_COMMS: those without a place are known, too. */
enum { KNOWN_BITS = 10, KNOWN = 1 << KNOWN_BITS };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
/* Read without the lock: what an entry is moved over is found again with it. */
static struct known_comm *_Atomic known[KNOWN];
static int known_count;
/* The one with an id that was asked for last, by the last bits of the id. */
enum { RECENT = 16 };
static struct known_comm *_Atomic recent[RECENT];
static struct record *record;
/* Those that were made of intercommunicators. */
static struct children merged;

__attribute__((constructor)) static void hold_lock_in_forks(void)
{
    hold_in_forks(&lock);
}

static int home_of(uint64_t key)
{
    return (int)(key * SPREAD >> (64 - KNOWN_BITS));
}

static unsigned char *members_of(const struct recorded_comm *place)
{
    const size_t each = ((size_t)record->ranks + 7) / 8;
    unsigned char *first = (unsigned char *)&record->peers[record->ranks];
    return first + (size_t)(place - record->comms) * each;
}

/* Where the entry of a handle is, or would be. */
static int slot_of(MPI_Comm handle)
{
    int i = home_of((uint64_t)(uintptr_t)handle);
    for (const struct known_comm *comm; (comm = known[i]) != NULL && comm->handle != handle;)
        i = (i + 1) % KNOWN;
    return i;
}

/* Ranks of the world by ranks of a communicator; NULL where MPI does not tell. */
static int32_t *look_up_ranks(MPI_Comm handle, int size)
{
    MPI_Group group, world;
    int *own = malloc((size_t)size * sizeof *own), *theirs = malloc((size_t)size * sizeof *theirs);
    bool well = own != NULL && theirs != NULL;
    if (well && next.Comm_group(handle, &group) == MPI_SUCCESS) {
        for (int i = 0; i < size; i++)
            own[i] = i;
        next.Comm_group(constants.world, &world);
        well = next.Group_translate_ranks(group, size, own, world, theirs) == MPI_SUCCESS;
        next.Group_free(&world);
        next.Group_free(&group);
        for (int i = 0; well && i < size; i++)
            well = theirs[i] >= 0 && theirs[i] < record->ranks;
    } else {
        well = false;
    }
    free(own);
    if (well)
        return theirs;
    free(theirs);
    return NULL;
}

static uint32_t mix(uint32_t hash, uint32_t number)
{
    return (hash ^ number) * 16777619u;
}

/* Count another one of a group; 0 where there are too many groups. */
static uint32_t count_child(struct children *children, uint32_t group)
{
    for (int i = 0; i < children->groups; i++)
        if (children->each[i].group == group)
            return ++children->each[i].made;
    if (children->groups == KNOWN)
        return 0;
    const size_t bytes = ((size_t)children->groups + 1) * sizeof *children->each;
    struct children_of_group *each = realloc(children->each, bytes);
    if (each == NULL)
        return 0;
    each[children->groups++] = (struct children_of_group){group, 1};
    children->each = each;
    return 1;
}

/* The id depends on what the communicator was made of, on who is in it, and on how many of these the same
 * ranks had before: threads may make others, of others, in any order. Strays of the same ranks share one. */
static uint32_t id_of(const struct known_comm *comm, struct known_comm *parent)
{
    const bool has_name = parent != NULL && !parent->is_inter && !comm->is_stray;
    uint32_t id = has_name ? mix(2166136261u, parent->id) : 2166136261u;
    for (int i = 0; i < comm->size; i++)
        id = mix(id, (uint32_t)world_rank(comm, i));
    if (!comm->is_stray)
        id = mix(id, count_child(has_name ? &parent->children : &merged, id));
    return id == 0 ? 1 : id;
}

static struct recorded_comm *take_place(const struct known_comm *comm)
{
    struct recorded_comm *place = record->comms;
    while (place < record->comms + RECORDED_COMMS && place->id != 0)
        place++;
    if (place == record->comms + RECORDED_COMMS) {
        record->lost_comms++;
        return NULL;
    }
    unsigned char *members = members_of(place);
    memset(members, 0, ((size_t)record->ranks + 7) / 8);
    for (int i = 0; i < comm->size; i++)
        members[world_rank(comm, i) / 8] |= (unsigned char)(1 << world_rank(comm, i) % 8);
    place->size = (uint32_t)comm->size;
    place->begun = 0;
    place->id = comm->id;
    return place;
}

static void drop(struct children *children)
{
    free(children->each);
    *children = (struct children){0};
}

static void discard(struct known_comm *comm)
{
    drop(&comm->children);
    free(comm->ranks);
    free(comm);
}

static void clear(int slot)
{
    struct known_comm *comm = known[slot];
    if (comm->place != NULL)
        comm->place->id = 0;
    if (recent[comm->id % RECENT] == comm)
        recent[comm->id % RECENT] = NULL;
    known[slot] = NULL;
    known_count--;
    discard(comm);
    /* Those behind it may have a home before it. */
    for (int i = slot, j = (i + 1) % KNOWN; known[j] != NULL; j = (j + 1) % KNOWN) {
        const int home = home_of((uint64_t)(uintptr_t)known[j]->handle);
        if ((j - home + KNOWN) % KNOWN < (j - i + KNOWN) % KNOWN)
            continue;
        known[i] = (struct known_comm *)known[j];
        known[j] = NULL;
        i = j;
    }
}

/* Enter a communicator; what MPI says of `asked` holds for it. Its parent is NULL where that is not known. */
static struct known_comm *enter_comm(MPI_Comm handle, MPI_Comm asked, struct known_comm *parent)
{
    struct known_comm *comm = known_count < KNOWN / 2 ? calloc(1, sizeof *comm) : NULL;
    if (comm == NULL) {
        record->lost_comms++;
        return NULL;
    }
    comm->handle = handle;
    comm->size = ranks_of(asked);
    comm->is_inter = is_inter(asked);
    if (!comm->is_inter && asked != constants.world) {
        comm->ranks = look_up_ranks(asked, comm->size);
        comm->is_inter = comm->ranks == NULL;
    }
    if (!comm->is_inter) {
        comm->is_stray = asked != constants.world && (parent == NULL || parent->is_stray);
        comm->id = id_of(comm, parent);
        comm->place = comm->size > 1 && !comm->is_stray ? take_place(comm) : NULL;
    }
    known_count++;
    known[slot_of(handle)] = comm;
    return comm;
}

struct known_comm *find_comm(MPI_Comm handle)
{
    struct known_comm *found = known[slot_of(handle)];
    if (LIKELY(found != NULL))
        return found;
    pthread_mutex_lock(&lock);
    found = known[slot_of(handle)];
    if (found == NULL)
        found = enter_comm(handle, handle, NULL);
    pthread_mutex_unlock(&lock);
    return found;
}

struct known_comm *comm_with_id(uint32_t id)
{
    struct known_comm *found = recent[id % RECENT];
    if (LIKELY(found != NULL && found->id == id))
        return found;
    found = NULL;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < KNOWN && found == NULL; i++)
        if (known[i] != NULL && known[i]->id == id)
            found = known[i];
    if (found != NULL)
        recent[id % RECENT] = found;
    pthread_mutex_unlock(&lock);
    return found;
}

void add_comm(MPI_Comm handle, MPI_Comm asked, MPI_Comm parent)
{
    find_comm(parent);
    pthread_mutex_lock(&lock);
    const int slot = slot_of(handle);
    if (known[slot] != NULL)
        clear(slot);
    enter_comm(handle, asked, known[slot_of(parent)]);
    pthread_mutex_unlock(&lock);
}

void name_comm(MPI_Comm handle)
{
    if (record != NULL)
        add_comm(handle, handle, constants.world);
}

void remove_comm(MPI_Comm handle)
{
    pthread_mutex_lock(&lock);
    const int slot = slot_of(handle);
    if (known[slot] != NULL)
        clear(slot);
    pthread_mutex_unlock(&lock);
}

void open_comms(struct record *opened, MPI_Comm watched)
{
    record = opened;
    drop(&merged);
    find_comm(constants.world);
    if (watched != constants.world)
        add_comm(watched, watched, constants.world);
}

void close_comms(void)
{
    pthread_mutex_lock(&lock);
    for (int i = 0; i < KNOWN; i++) {
        struct known_comm *comm = known[i];
        known[i] = NULL;
        if (comm != NULL)
            discard(comm);
    }
    for (int i = 0; i < RECENT; i++)
        recent[i] = NULL;
    known_count = 0;
    pthread_mutex_unlock(&lock);
}
